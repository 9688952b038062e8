"""What sandboxes need from the host: the service's folder, workspaces, users, parts of /etc.

Only the pool imports it, and the tests.
"""

"""What sandboxes need of the host: the service's folder, workspaces, users, the parts of /etc.

Only the pool imports it, and the tests.
"""

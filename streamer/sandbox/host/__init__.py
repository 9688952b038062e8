"""What sandboxes need from the host: the service's folder, workspaces, users, parts of /etc.

Only the pool and its templates import it, and the tests.
"""

"""The Redis engine: jobs, logs and blobs in a Redis or Valkey server that processes share.

Only `compose` and the tests import it; it needs the packages of the extra ``redis``.
"""

"""The memory engine: jobs and their logs in the memory of one process.

Only `compose` and the tests import it.
"""

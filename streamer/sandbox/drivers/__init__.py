"""Start and drive one sandbox, with our init inside or without it; knows no control groups.

Only the pool and the sandbox import it, and the tests.
"""

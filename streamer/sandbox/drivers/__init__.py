"""Start and drive one sandbox, with our init inside or without, and no control group in mind.

Only the pool and the sandbox import it, and the tests.
"""

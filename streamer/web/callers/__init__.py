"""Who calls, from where, and what they may do.

Only `web`, `compose` and the tests import it.
"""

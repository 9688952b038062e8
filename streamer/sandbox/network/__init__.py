"""The proxy through which a job reaches the hosts that the configuration lists.

Knows no sandbox; the worker and the tests import it.
"""

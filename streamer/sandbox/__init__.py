"""One sandbox: which backends work here, and how a sandbox is started, driven and taken down.

Knows no engine and no events of jobs; only the worker, the doctor and the tests import it.
"""

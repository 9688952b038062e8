"""The examples in examples/adapters, each with the package that it is for.

The packages are in an environment of their own (requirements/adapters.txt), in which the scripts of
this folder run: large as they are, they are thorough tests.
"""

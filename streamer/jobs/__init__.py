"""The half that accepts jobs: resolves them, follows them, makes documents of their logs.

Imports the engine, never a sandbox.
"""

"""The half that runs jobs: one job's execution, its output, its input, its verdict.

Imports the sandbox and the engine, never the web.
"""

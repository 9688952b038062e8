"""Packages that the operator builds on a host for programs of its jobs, and whether they are there.

The command line builds and removes, the worker only looks. Knows no jobs and no sandboxes.
"""

"""The HTTP interface: routes by subject, and what they parse and answer.

Imports the jobs half and the event streams, never the worker.
"""

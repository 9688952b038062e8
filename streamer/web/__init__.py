"""The HTTP interface: routes by subject, parsing, responses, and `streamer serve`.

Imports the jobs half and the event streams, never the worker.
"""

"""The process of `streamer serve`: its socket, its connections, its log.

Only the command line, `compose` and the tests import it.
"""

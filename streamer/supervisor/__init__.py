"""The processes of `streamer serve --workers N`: the parent starts, replaces and ends them.

It also has the Redis server that they share, if none is configured. Only the command line uses it.
"""

"""`streamer doctor`: facts about a host, and probes that try to break out of its sandboxes.

It may import every room but the command line; the escape suite of `streamer.testing` shares its
lures.
"""

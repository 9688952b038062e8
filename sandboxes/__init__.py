"""The built-in sandbox backends, one module each.

They import `streamer.spi` and nothing else of streamer, like the backends of other projects.
"""

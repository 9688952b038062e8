"""Groups of routes that a plugin adds: what they declare, who may call them, how they are mounted.

`streamer` exports what their authors need; `application` and `web.app` mount them.
"""

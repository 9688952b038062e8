"""The MCP server: tools with which a language model runs programs.

Everything here talks to a service through `streamer.client`, be it in this process or a remote one.
Only `streamer.cli` imports this room, as only it needs the packages of the extra `mcp`.
"""

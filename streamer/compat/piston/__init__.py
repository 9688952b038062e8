"""The interface of Piston v2, as of its API 3.1.1: runtimes, execute, and connect by WebSocket."""

from __future__ import annotations

from streamer.compat.piston.routes import GROUP

__all__ = ["GROUP"]

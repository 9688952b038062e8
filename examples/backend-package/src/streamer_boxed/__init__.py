"""A sandbox backend for aiohttp-streamer."""

from streamer_boxed.backend import Boxed

__all__ = ["Boxed"]

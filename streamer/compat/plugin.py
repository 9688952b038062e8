"""The built-in groups of routes. Nothing of them is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamer.spi import hookimpl

if TYPE_CHECKING:
    from streamer import RouteGroup

__all__ = ["streamer_routes"]


@hookimpl
def streamer_routes() -> Sequence[RouteGroup]:
    """Return them; only an application that has switched one on asks."""
    from streamer.compat import piston  # noqa: PLC0415 - they import aiohttp

    return [piston.GROUP]

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
    # They import aiohttp.
    from streamer.compat.dify.routes import DIFY  # noqa: PLC0415
    from streamer.compat.jobe.routes import JOBE  # noqa: PLC0415
    from streamer.compat.judge0 import GROUP as JUDGE0  # noqa: PLC0415
    from streamer.compat.piston import GROUP as PISTON  # noqa: PLC0415
    from streamer.compat.sandboxfusion.routes import SANDBOXFUSION  # noqa: PLC0415

    return [DIFY, JOBE, JUDGE0, PISTON, SANDBOXFUSION]

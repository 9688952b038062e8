"""The hook by which the service finds the backend: see the entry point in pyproject.toml."""

from __future__ import annotations

import streamer
from streamer.spi import Backend
from streamer_boxed.backend import Boxed


@streamer.hookimpl
def streamer_backends() -> list[type[Backend]]:
    return [Boxed]

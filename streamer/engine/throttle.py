"""Limit how often something is done, however often it is asked for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Throttle"]


class Throttle:
    """Calls a function at once, or `pause_s` seconds after the last call, once for all requests."""

    def __init__(self, call: Callable[[], None], pause_s: float) -> None:
        self._call = call
        self._pause_s = pause_s
        self._next = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def request(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._next:
            self._timer = loop.call_at(self._next, self._now)
        else:
            self._now()

    def due(self) -> bool:
        """Whether it would be done at once."""
        return self._timer is None and asyncio.get_running_loop().time() >= self._next

    def done(self) -> None:
        """Take note that it was done without this."""
        self._next = asyncio.get_running_loop().time() + self._pause_s

    def _now(self) -> None:
        self._timer = None
        self.done()
        self._call()

    def close(self) -> None:
        """Drop what was requested and has not been done."""
        if self._timer is not None:
            self._timer.cancel()

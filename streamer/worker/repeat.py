"""Repeat a call of the engine whose connection was lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

__all__ = ["repeated"]

log: Final = logging.getLogger(__name__)

PAUSES_S: Final = (0.01, 0.05, 0.2, 0.5)
"""Before each repetition; the last of them before every further one."""

T = TypeVar("T")


async def repeated(call: Callable[[], Awaitable[T]], *, tries: int | None = None) -> T:
    """Return the engine's answer to a call, which is repeated when its connection was lost.

    The caller sets a time limit, or the number of `tries`. It is for calls that the engine lets be
    repeated (`streamer.engine.interface`).
    """
    for number in itertools.count(1):
        try:
            return await call()
        except ConnectionError as error:
            if number == tries:
                raise
            log.warning("the connection to the engine was lost: %s", error)
        await asyncio.sleep(PAUSES_S[min(number, len(PAUSES_S)) - 1])
    raise AssertionError("the numbers do not end")

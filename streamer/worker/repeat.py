"""Say something again to an engine whose connection was lost meanwhile."""

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


async def repeated(say: Callable[[], Awaitable[T]]) -> T:
    """Return the engine's answer, however often its connection is lost; the caller sets a bound.

    For what the engine knows again (`streamer.engine.interface`).
    """
    pauses = itertools.chain(PAUSES_S, itertools.repeat(PAUSES_S[-1]))
    for pause_s in pauses:
        try:
            return await say()
        except ConnectionError as error:
            log.warning("the connection to the engine was lost: %s", error)
        await asyncio.sleep(pause_s)
    raise AssertionError("the pauses do not end")

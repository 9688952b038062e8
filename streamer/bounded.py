"""Bound a wait that may be part of a clean-up.

A clean-up often runs in a task that was cancelled: that of a job, or of the whole service where
`aiohttp.web.run_app` stops it. There `asyncio.timeout` raises no TimeoutError before Python 3.11.3,
but goes on with the cancellation, and so would end the clean-up itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

__all__ = ["ends_in", "within"]

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

UNWIND_S: Final = 1.0
"""How long to wait for the end of what was cancelled."""

_left: Final[set[asyncio.Future[Any]]] = set()
"""What did not end then; the event loop itself keeps no task alive."""


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    """Return the result of a coroutine. Raises TimeoutError, and cancels it, after `timeout_s`.

    A coroutine that does not end when it is cancelled, one of a plugin perhaps, is left behind.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise TimeoutError(f"no end within {timeout_s:g} s")
        return task.result()
    finally:
        if not task.done():
            await _cancelled(task)


async def ends_in(timeout_s: float, work: Awaitable[object]) -> bool:
    """Run a coroutine for at most `timeout_s`, then cancel it; return whether it has ended."""
    try:
        await within(timeout_s, work)
    except TimeoutError:
        return False
    return True


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, but not for long."""
    _left.add(task)
    task.add_done_callback(_forget)
    task.cancel()
    await asyncio.wait({task}, timeout=UNWIND_S)
    if not task.done():
        log.error("this was cancelled and goes on: %r", task)


def _forget(task: asyncio.Future[Any]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # nobody waits for it any more; do not log it

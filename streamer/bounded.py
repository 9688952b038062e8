"""Bound a wait that may be part of a clean-up.

A clean-up often runs in a task that was cancelled: that of a job, or of the whole service where
`aiohttp.web.run_app` stops it. There `asyncio.timeout` raises no TimeoutError before Python 3.11.3,
but goes on with the cancellation, and so would end the clean-up itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["ends_in", "within"]

T = TypeVar("T")


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    """Return the result of a coroutine. Raises TimeoutError, and cancels it, after `timeout_s`."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            raise TimeoutError(f"no end within {timeout_s:g} s")
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ends_in(timeout_s: float, work: Awaitable[object]) -> bool:
    """Run a coroutine for at most `timeout_s`, then cancel it; return whether it has ended."""
    try:
        await within(timeout_s, work)
    except TimeoutError:
        return False
    return True

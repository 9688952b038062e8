"""Bound a wait that may be part of a clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["ends_in"]


async def ends_in(timeout_s: float, work: Coroutine[Any, Any, object]) -> bool:
    """Run a coroutine for at most `timeout_s`, then cancel it; return whether it has ended.

    A sandbox is often closed in a task that was cancelled. There `asyncio.timeout` raises no
    TimeoutError before Python 3.11.3, but goes on with the cancellation, and so would end the
    clean-up before anything is killed.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

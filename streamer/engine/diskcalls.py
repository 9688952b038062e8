"""Make system calls on a disk that may hang: in threads of their own, with a time limit."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

__all__ = ["DiskCalls"]

T = TypeVar("T")

CALL_S: Final = 10.0
"""How long to wait for the disk."""

THREADS: Final = ThreadPoolExecutor(8, "streamer-blobs")
"""Only for the system calls on stored files, so that nothing else delays them."""


class DiskCalls:
    """The calls of one owner. Close it after use."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Future[Any]] = set()

    def start(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run it in a thread; it goes on whoever waits for it."""
        future = asyncio.get_running_loop().run_in_executor(THREADS, function)
        self._calls.add(future)
        future.add_done_callback(self._done)
        return future

    async def run(self, function: Callable[[], T], undo: Callable[[T], None] = lambda _: None) -> T:
        """Wait for it; `undo` its result if nobody waits for that any more."""
        future = self.start(function)
        left = True
        try:
            await asyncio.wait({future}, timeout=CALL_S)
            if not future.done():
                raise OSError(errno.EIO, f"the disk does not answer within {CALL_S:g} s")
            left = False
            return future.result()
        finally:
            if left:
                future.add_done_callback(partial(_undo, undo))

    @staticmethod
    async def ended(future: asyncio.Future[None]) -> None:
        """Wait, but not long, for a clean-up, which goes on if this is cancelled."""
        await asyncio.wait({future}, timeout=CALL_S)

    async def close(self) -> None:
        """Wait, but not long, for the threads."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=CALL_S / 2)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._calls.discard(future)
        if not future.cancelled():
            future.exception()  # the caller may be gone; do not log it


def _undo(undo: Callable[[T], None], future: asyncio.Future[T]) -> None:
    if future.exception() is None:
        undo(future.result())

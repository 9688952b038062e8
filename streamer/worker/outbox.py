"""Hand a job's events to the engine in order, while its output is read on.

A program's two streams are two pipes: which of them was written first is known only to whoever
reads them in time. So reading must not wait while the engine takes its time to answer, or while a
call is repeated whose connection was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from streamer.engine.interface import AppendNow

__all__ = ["PENDING_BYTES", "Batch", "Outbox"]

PENDING_BYTES: Final = 64 * 1024
"""With more than this unanswered nothing is read, so that the program's writes block."""

EVENT_BYTES: Final = 512
"""About what an event takes besides its data."""

Batch = Sequence[tuple[str, bytes]]


class Outbox:
    """Encoded events on their way to the engine. Close it after use.

    `send` is never called again before it has returned, and gets everything that has come
    meanwhile. What it raises is raised by the next `put` or `flush`, after a call of `on_failure`.
    An engine that has `send_now` gets the events of `put_now` through that as long as it takes
    them. Nothing may be appended to the log in another way before `flush`.
    """

    def __init__(
        self,
        send: Callable[[Batch], Awaitable[None]],
        on_failure: Callable[[], None],
        send_now: AppendNow | None = None,
    ) -> None:
        self._send = send
        self._send_now = send_now
        self._on_failure = on_failure
        self._waiting: list[tuple[str, bytes]] = []
        self._bytes = 0
        """The size of all events that are not answered yet."""
        self._sending: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()

    def put_now(self, batch: Batch) -> bool:
        """Add events if `put` would not have to wait; otherwise do nothing."""
        self._check()
        if self._sending is None and self._send_now is not None and self._send_now(batch):
            return True
        if self._bytes + _size(batch) > PENDING_BYTES:
            return False
        self._add(batch)
        return True

    async def put(self, batch: Batch) -> None:
        """Add events, and wait while more than `PENDING_BYTES` are unanswered."""
        self._add(batch)
        while self._bytes > PENDING_BYTES:
            self._check()
            self._progress.clear()
            await self._progress.wait()
        self._check()

    async def flush(self) -> None:
        """Wait until everything is answered."""
        if self._sending is not None:
            await asyncio.wait({self._sending})
        self._check()

    async def close(self) -> None:
        """Send nothing more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def _add(self, batch: Batch) -> None:
        self._waiting += batch
        self._bytes += _size(batch)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
            self._sending.add_done_callback(self._ended)

    def _check(self) -> None:
        if self._sending is not None and self._sending.done():
            self._sending.result()

    async def _send_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            await self._send(batch)
            self._bytes -= _size(batch)
            self._progress.set()
        self._sending = None

    def _ended(self, sending: asyncio.Task[None]) -> None:
        if not sending.cancelled() and sending.exception() is not None:
            self._on_failure()
        self._progress.set()


def _size(batch: Batch) -> int:
    return sum(len(data) + EVENT_BYTES for _, data in batch)

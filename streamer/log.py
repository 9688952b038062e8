"""Keep one job's events: an append-only log that any number of readers follow.

A frame of the Server-Sent Events stream (WHATWG HTML, section 9.2) is made once,
when its event is appended. A reader is an integer: the number of the last event it
has. So a slow reader costs nothing but itself, and resuming is a slice.

Field order is ``event``, ``data``, ``id``: some clients commit an id when they read
its line, so an id that comes first is lost with a cut event. The data holds no raw
CR or LF (`streamer.events.encode`), so output can never forge a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from streamer.events import TERMINAL_KINDS, Gap, JobEvent, decode, encode

__all__ = ["Event", "JobLog"]

MAX_BATCH_BYTES: Final = 64 * 1024
"""One read returns about this much, so that a stalled reader holds no more."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job as a Python caller sees it; `id` is what to resume after.

    A `Gap` stands for events that are gone and has the id of the last of them.
    """

    id: int
    kind: str
    data: JobEvent


def _frame(number: int, kind: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\nid: %d\n\n" % (kind.encode(), data, number)


def _parse(frame: bytes) -> tuple[str, bytes]:
    event, data, _ = frame.split(b"\n", 2)
    return event[7:].decode(), data[6:]


class JobLog:
    """The events of one job, numbered densely from 1.

    Everything but `wait` and `events` is plain, and all of it runs on one event loop.
    """

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._first = 1
        self._waiters: set[asyncio.Future[bool]] = set()
        self._last_read: tuple[int, int, bytes] = (-1, -1, b"")
        self.size_bytes = 0
        self.done = False

    @property
    def last_id(self) -> int:
        """The number of the newest event; 0 while there is none."""
        return self._first + len(self._frames) - 1

    @property
    def first_id(self) -> int:
        """The number of the oldest event that is still kept."""
        return self._first

    def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Number the encoded events, keep them and wake the readers.

        The last of them may be terminal and then ends the log. Raises RuntimeError if
        the log has ended.
        """
        if self.done:
            raise RuntimeError("the log has ended: nothing follows the terminal event")
        number = self.last_id
        for kind, data in events:
            number += 1
            frame = _frame(number, kind, data)
            self._frames.append(frame)
            self.size_bytes += len(frame)
            if kind in TERMINAL_KINDS:
                self.done = True
                break
        self._wake()

    def drop(self, size_bytes: int) -> int:
        """Forget the oldest events, at least `size_bytes` of them; return how many bytes.

        The newest event always stays, so that an ended log still tells its end.
        """
        dropped = count = 0
        while dropped < size_bytes and count < len(self._frames) - 1:
            dropped += len(self._frames[count])
            count += 1
        del self._frames[:count]
        self._first += count
        self.size_bytes -= dropped
        return dropped

    def read(self, after: int) -> tuple[bytes, int]:
        """Return frames that follow event `after`, ready to send, and the last one's number.

        About `MAX_BATCH_BYTES` at a time; empty when there is nothing new. If events
        are gone a `Gap` comes first and says which.
        """
        memo_after, memo_last, memo = self._last_read
        if memo_after == after and memo_last >= self._first:
            return memo, memo_last
        batch: list[bytes] = []
        if after + 1 < self._first:
            gap = Gap(from_=after + 1, to=self._first - 1)
            after = self._first - 1
            batch.append(_frame(after, *encode(gap)))
        start = index = after + 1 - self._first
        size = 0
        while index < len(self._frames) and size < MAX_BATCH_BYTES:
            size += len(self._frames[index])
            index += 1
        batch += self._frames[start:index]
        last = self._first + index - 1
        data = b"".join(batch)
        # Readers in step ask for the same slice: join it once. A slice that reaches the
        # end may grow, so only a full one is remembered.
        if size >= MAX_BATCH_BYTES and len(batch) == index - start:
            self._last_read = (after, last, data)
        return data, last

    def entries(self, after: int = 0) -> Iterator[Event]:
        """Yield the kept events after number `after`, decoded."""
        index = max(after + 1 - self._first, 0)
        # Numbered now: between two of these the consumer may wait, and `drop` may come.
        for number, frame in enumerate(self._frames[index:], self._first + index):
            kind, data = _parse(frame)
            yield Event(number, kind, decode(kind, data))

    async def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait for an event that follows number `after`, or for the end of the log.

        Returns False when `timeout_s` seconds passed first.
        """
        if self.done or self.last_id > after:
            return True
        loop = asyncio.get_running_loop()
        # A future of its own: cancelling one reader must not cancel the others.
        waiter: asyncio.Future[bool] = loop.create_future()
        timer = None
        if timeout_s is not None:
            timer = loop.call_later(timeout_s, _expire, waiter)
        self._waiters.add(waiter)
        try:
            return await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Yield every event after number `after`, then live ones, to the terminal one."""
        while True:
            if after + 1 < self._first:
                gap = Gap(from_=after + 1, to=self._first - 1)
                after = self._first - 1
                yield Event(after, "gap", gap)
            for event in self.entries(after):
                after = event.id
                yield event
            if self.done and after >= self.last_id:
                return
            await self.wait(after)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)
        self._waiters.clear()


def _expire(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)

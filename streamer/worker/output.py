"""Turn what a program writes into events.

Bytes are read as they arrive and never split inside a character: each stream has an incremental
decoder. A line is passed on at once; only small writes that follow each other are merged, for
`GATHER_S` at most. While too many events wait for the log (`streamer.worker.outbox`) nothing is
read, and the program's writes block: this back-pressure limits the memory.
"""

from __future__ import annotations

import array
import asyncio
import base64
import codecs
import errno
import fcntl
import os
import termios
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from streamer.model.events import JobEvent, Output, PhaseName, StreamName, Truncated

__all__ = ["Budget", "OutputPump", "TextDecoder"]

GATHER_S: Final = 0.008
"""Small writes within this time become one event, in seconds."""

REST_OF_LINE_S: Final = 0.002
"""How long to wait for the end of a line that is written in pieces (by unbuffered Python)."""

SMALL_READ: Final = 4096
"""If a read returns less, in bytes, it is worth waiting for more."""

READ_BYTES: Final = 64 * 1024
"""An event has the bytes of one read, and less than `SMALL_READ` that were read before them.

JSON needs at most six bytes for each of them, and one client refuses lines of 512 KiB.
"""


class TextDecoder:
    """Decode UTF-8 piece by piece; invalid bytes become U+FFFD and are reported."""

    def __init__(self) -> None:
        self._rest = b""

    def decode(self, data: bytes, *, final: bool = False) -> tuple[str, bool]:
        """Return the complete text, and whether it had invalid bytes."""
        data = self._rest + data
        lossy = False
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError:
            text, used = codecs.utf_8_decode(data, "replace", final)
            lossy = True
        self._rest = data[used:]
        return text, lossy


class Budget:
    """The bytes that a job may still write, in both streams and all phases."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.dropped: dict[StreamName, int] = {}

    def take(self, stream: StreamName, data: bytes) -> bytes:
        """Return the part of `data` that fits, and count the rest as dropped."""
        part = data[: self.limit - self.taken]
        self.taken += len(part)
        if len(part) < len(data):
            self.dropped[stream] = self.dropped.get(stream, 0) + len(data) - len(part)
        return part

    @property
    def exceeded(self) -> bool:
        return bool(self.dropped)

    def truncated(self) -> list[Truncated]:
        return [Truncated(stream, count) for stream, count in self.dropped.items()]


class OutputPump:
    """Read the output of one phase to its end, from the descriptors that are added.

    `write` takes the events in the order of reading, and returns when it can take more;
    `on_exceeded` is called once when the budget is used up. After that everything read is dropped,
    so that the program does not block for ever.
    """

    def __init__(
        self,
        *,
        phase: PhaseName,
        budget: Budget,
        as_base64: bool,
        elapsed_ms: Callable[[], int],
        write: Callable[[Sequence[JobEvent]], Awaitable[None]],
        on_exceeded: Callable[[], None],
    ) -> None:
        self._phase: PhaseName = phase
        self._budget = budget
        self._as_base64 = as_base64
        self._elapsed_ms = elapsed_ms
        self._write = write
        self._on_exceeded = on_exceeded
        self._ends: dict[int, tuple[StreamName, TextDecoder]] = {}
        self._waiting: asyncio.Future[None] | None = None
        self._gathering: asyncio.Future[None] | None = None
        self._hurried = False
        self._left: dict[int, int] | None = None

    def add(self, stream: StreamName, fd: int) -> None:
        """Read a stream from its non-blocking descriptor, which is closed at the end."""
        self._ends[fd] = (stream, TextDecoder())

    async def run(self) -> None:
        """Pass on everything until all writing ends are closed, or until `read_rest` is done."""
        loop = asyncio.get_running_loop()
        while self._ends:
            if self._left is None:
                await self._readable(loop)
            events: list[JobEvent] = []
            size = 0
            exceeded = self._budget.exceeded
            for fd in list(self._ends):
                size += await self._read(loop, fd, events)
            if events:
                await self._write(events)
            if self._budget.exceeded and not exceeded:
                self._on_exceeded()
            if size < SMALL_READ and self._ends:
                await self._pause(loop, GATHER_S)

    def hurry(self) -> None:
        """Pass on what is being merged: the program has ended, though others may still write."""
        if self._gathering is not None:
            _wake(self._gathering)

    def read_rest(self) -> None:
        """Read what is in the pipes now, and then stop.

        Call it when everything the job started is dead: the rest of its output is in the pipes. A
        pipe that it has passed to another process outside may stay open for ever.
        """
        self._hurried = True
        self.hurry()
        self._left = {fd: _waiting_bytes(fd) for fd in self._ends}
        if self._waiting is not None:
            _wake(self._waiting)

    def close(self) -> None:
        """Stop reading, and close the remaining descriptors."""
        for fd in self._ends:
            os.close(fd)
        self._ends.clear()

    async def _pause(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._hurried:
            return
        self._gathering = loop.create_future()
        timer = loop.call_later(seconds, _wake, self._gathering)
        try:
            await self._gathering
        finally:
            timer.cancel()
            self._gathering = None

    async def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting = ready = loop.create_future()
        watched = list(self._ends)
        for fd in watched:
            loop.add_reader(fd, _wake, ready)
        try:
            await ready
        finally:
            self._waiting = None
            for fd in watched:
                loop.remove_reader(fd)

    async def _read(self, loop: asyncio.AbstractEventLoop, fd: int, events: list[JobEvent]) -> int:
        stream, decoder = self._ends[fd]
        data = self._take(fd)
        if data is None and self._left is None:
            return 0
        if data and len(data) < SMALL_READ and not data.endswith(b"\n"):
            await self._pause(loop, REST_OF_LINE_S)
            data += self._take(fd) or b""
        if data:
            self._convert(stream, decoder, data, events)
        if not data or (self._left is not None and self._left[fd] <= 0):
            self._convert(stream, decoder, b"", events)
            os.close(fd)
            del self._ends[fd]
        return len(data or b"")

    def _take(self, fd: int) -> bytes | None:
        data = _read_some(fd)
        if data and self._left is not None:
            self._left[fd] -= len(data)
        return data

    def _convert(
        self, stream: StreamName, decoder: TextDecoder, data: bytes, events: list[JobEvent]
    ) -> None:
        final = not data
        data = self._budget.take(stream, data)
        t = self._elapsed_ms()
        if self._as_base64:
            if data:
                text = base64.b64encode(data).decode()
                events.append(Output(stream, text, t, self._phase, encoding="base64"))
            return
        text, lossy = decoder.decode(data, final=final)
        if text:
            events.append(Output(stream, text, t, self._phase, lossy=lossy))


def _read_some(fd: int) -> bytes | None:
    """Return available bytes; ``b""`` at the end, None if there are none yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:  # EIO: the other side of a terminal is closed (pty(7))
            raise
        return b""


def _waiting_bytes(fd: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

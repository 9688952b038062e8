"""Turn what a program writes into events.

Bytes are read as they come and are never split inside a character: each stream has
an incremental decoder. A line is passed on at once; only when the program writes in
small pieces one after another are they gathered, for `GATHER_S` at most. While the log
does not take events, nothing is read and the program's writes block: that is the
back-pressure, and the bound on memory.
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
"""Small writes that follow each other within this time become one event, in seconds."""

REST_OF_LINE_S: Final = 0.002
"""A program that writes a line in pieces (unbuffered Python does) gets this long to end it."""

SMALL_READ: Final = 4096
"""A read of less, in bytes, means that waiting would gather more."""

READ_BYTES: Final = 64 * 1024
MAX_EVENT_CHARS: Final = 8192
"""JSON makes at most six bytes of a character, and one client refuses lines of 512 KiB."""


class TextDecoder:
    """Decode UTF-8 piece by piece; invalid bytes become U+FFFD and are told."""

    def __init__(self) -> None:
        self._rest = b""

    def decode(self, data: bytes, *, final: bool = False) -> tuple[str, bool]:
        """Return the text that is complete, and whether bytes of it were invalid."""
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
    """The bytes that a job may still write, over both streams and all phases."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.dropped: dict[StreamName, int] = {}

    def take(self, stream: StreamName, data: bytes) -> bytes:
        """Return the part of `data` that fits and count the rest as dropped."""
        part = data[: self.limit - self.taken]
        self.taken += len(part)
        if len(part) < len(data):
            self.dropped[stream] = self.dropped.get(stream, 0) + len(data) - len(part)
        return part

    @property
    def exceeded(self) -> bool:
        """Whether anything was dropped."""
        return bool(self.dropped)

    def truncated(self) -> list[Truncated]:
        """Return the events that say what was dropped."""
        return [Truncated(stream, count) for stream, count in self.dropped.items()]


class OutputPump:
    """Read the output of one phase to its ends, from the descriptors that are added.

    `write` takes the events, in the order of reading, and returns when more may come;
    `on_exceeded` is called once when the budget is used up. Reading goes on then, so
    that the program does not block for ever, and what is read is dropped.
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
        """Read a stream from our end of it, which does not block; it is closed at its end."""
        self._ends[fd] = (stream, TextDecoder())

    async def run(self) -> None:
        """Pass on everything until nobody holds a writing end any more, or to `read_rest`."""
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
        """Pass on what is gathered: the program has ended. What it left may go on writing."""
        if self._gathering is not None:
            _wake(self._gathering)

    def read_rest(self) -> None:
        """Read what is in the pipes now, and then no more.

        To be called when all that the job started is dead: what it wrote is in the pipes. A pipe
        that it has passed on to somebody outside may stay open, and be written to, for ever.
        """
        self._hurried = True
        self.hurry()
        self._left = {fd: _waiting_bytes(fd) for fd in self._ends}
        if self._waiting is not None:
            _wake(self._waiting)

    def close(self) -> None:
        """Stop reading and close what is left."""
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
            for at in range(0, len(data), MAX_EVENT_CHARS):
                part = base64.b64encode(data[at : at + MAX_EVENT_CHARS]).decode()
                events.append(Output(stream, part, t, self._phase, encoding="base64"))
            return
        text, lossy = decoder.decode(data, final=final)
        for at in range(0, len(text), MAX_EVENT_CHARS):
            part = text[at : at + MAX_EVENT_CHARS]
            events.append(Output(stream, part, t, self._phase, lossy=lossy))


def _read_some(fd: int) -> bytes | None:
    """Return what is there, nothing at the end, None when there is nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:  # a terminal whose other side is closed (pty(7))
            raise
        return b""


def _waiting_bytes(fd: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

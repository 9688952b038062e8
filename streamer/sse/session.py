"""Follow logs on one response.

A `Session` is one open response and the `Source` it reads from. Its coroutine, the handler's own,
is the only one that writes to the response, so nothing is ever written into a frame. It is woken by
its logs, by the session map's pulse when it has been silent for the heartbeat, and by `close`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

from aiohttp import web

from streamer.eventlog.frames import comment, retry
from streamer.eventlog.log import Cursor
from streamer.sse.outgoing import Outgoing
from streamer.sse.response import StreamOptions

__all__ = ["Answer", "Session", "Source"]

_numbers: Final = count(1)


class Source(Protocol):
    """Where a session's bytes come from."""

    @property
    def cursors(self) -> Sequence[Cursor]:
        """The places in logs that it reads from."""

    async def read(self) -> bytes:
        """Return what is next, ready to send, or nothing when there is nothing new."""

    def sent(self) -> None:
        """Say that what `read` returned was sent."""

    @property
    def ended(self) -> bool:
        """Whether nothing will ever follow."""


class Answer(Protocol):
    """The response of a session: events, or bytes."""

    heartbeat: bytes
    """What is sent when it has been silent for long."""
    lingers: bool
    """Whether the client is to leave first."""

    def opening(self, options: StreamOptions, /) -> bytes:
        """Return what is sent before anything else."""

    async def prepare(self, request: web.BaseRequest) -> object:
        """Send the headers. Raises ConnectionResetError if the client has left."""

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client takes too little."""

    @property
    def unsent_bytes(self) -> int:
        """What the client has yet to take of what was written."""

    @property
    def gone(self) -> bool:
        """Whether the client is known to have left."""

    def abort(self) -> None:
        """Cut the connection at once."""

    def cut(self) -> None:
        """Close the connection without the mark of the end."""

    def is_connected(self) -> bool:
        """Tell whether `stop_streaming` has something to stop."""

    def stop_streaming(self) -> None:
        """End what the response runs beside."""


@dataclass(eq=False)
class Session:
    """One open response. `keys` name what it follows; `state` is for the application."""

    keys: tuple[str, ...]
    response: Answer
    peer: str
    source: Source
    state: dict[str, Any] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(_numbers))
    since: float = field(default_factory=time.time)
    active_at: float = field(default_factory=time.monotonic)
    """When something was last written, on the monotonic clock."""
    client: str | None = None
    """Who it is of, where each has a share."""
    outgoing: Outgoing = field(default_factory=Outgoing)
    writing_since: float = math.inf
    """When what is being written was begun."""
    counted: int = 0
    """What it counts in `outgoing`."""
    _writing: int = 0
    _in_source: int = 0
    _waiter: asyncio.Future[bool] | None = None
    _closing: bool = False
    _urgent: bytes = b""

    @property
    def position(self) -> int:
        """The number of the last event it was sent, in the first log it follows."""
        return self.source.cursors[0].position

    @property
    def lag(self) -> int:
        """How many events there are that it was not sent."""
        return sum(cursor.lag for cursor in self.source.cursors)

    @property
    def held_bytes(self) -> int:
        """What it has in memory that its client has yet to take."""
        # The connection copies what it cannot send at once.
        return self._writing + max(self._writing, self.response.unsent_bytes) + self._in_source

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> None:
        """End the stream after what is being written. A client comes back unless it gets a 204."""
        self._closing = True
        self._wake(True)

    def comment(self, text: str = "") -> None:
        """Send a comment, which no client shows."""
        self._urgent += comment(text)
        self._wake(True)

    def retry(self, milliseconds: int) -> None:
        """Tell the client when to come back after a lost connection."""
        self._urgent += retry(milliseconds)
        self._wake(True)

    def beat(self) -> None:
        """Have it send a heartbeat, if it is waiting."""
        self._wake(False)

    def cut_if_stalled(self, since: float) -> None:
        """Cut the connection if what is being written was begun before a time."""
        if self.writing_since <= since:
            self.response.abort()

    async def run(self, options: StreamOptions, leaving: asyncio.Event | None = None) -> None:
        """Send everything to the end of what it reads from, then wait for the grace period.

        `leaving` cuts that short. It also ends when the client is gone, or takes nothing. Raises
        what its source raises.
        """
        pending = self.response.opening(options)
        grace_s = options.grace_s if self.response.lingers else 0.0
        while not self._closing:
            data = await self.source.read()
            self._count_source()
            pending += self._urgent
            self._urgent = b""
            if pending or data:
                if not await self._write(pending + data):
                    return
                self.source.sent()
                self.active_at = time.monotonic()
                # It is counted no more, and reading what is next may take its time.
                pending = data = b""
            elif self.source.ended:
                await self._linger(grace_s, leaving)
                return
            elif not await self._wait():
                if self.response.gone:
                    return  # what has no heartbeat to write would never notice
                pending = self.response.heartbeat
                self.active_at = time.monotonic()

    def _count_source(self) -> None:
        # Of the built-in sources one holds back what it has read: that of a slow replay.
        held: int = getattr(self.source, "held_bytes", 0)
        if held != self._in_source:
            self._in_source = held
            self.outgoing.count(self)

    async def _write(self, data: bytes) -> bool:
        """Write to the client; False when it is gone, or was cut as it took nothing."""
        self.writing_since = time.monotonic()
        self._writing = len(data)
        self.outgoing.count(self)
        try:
            await self.response.write(data)
        except ConnectionError:  # not always a reset: aiohttp knows several
            return False
        finally:
            self.writing_since = math.inf
            self._writing = 0
            self.outgoing.count(self)
        return True

    async def _wait(self) -> bool:
        """Wait for something to do; False when it is a heartbeat."""
        cursors = self.source.cursors
        # What came while `read` was at the disk woke nobody.
        if self._closing or self._urgent or any(cursor.lag for cursor in cursors):
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        for cursor in cursors:
            cursor.log.watch(waiter)
        try:
            return await waiter
        finally:
            self._waiter = None
            for cursor in cursors:
                cursor.log.unwatch(waiter)

    async def _linger(self, grace_s: float, leaving: asyncio.Event | None) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        left = loop.create_task(leaving.wait()) if leaving else None
        try:
            while not self._closing and not (left and left.done()) and loop.time() < until:
                self._waiter = loop.create_future()  # a heartbeat ends it too
                watched: set[asyncio.Future[Any]] = {self._waiter}
                if left:
                    watched.add(left)
                await asyncio.wait(
                    watched,
                    timeout=until - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            self._waiter = None
            if left:
                left.cancel()

    def _wake(self, value: bool) -> None:  # noqa: FBT001 - the result of a wait
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(value)

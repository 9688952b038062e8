"""Follow logs on one response.

A `Session` is one open response and the `Source` it reads from. Its own coroutine, that of the
handler, writes to the response. It is woken by its logs, by the timer of the session map when a
heartbeat is due, and by `close`. While it waits for its logs, and only then, whole frames are also
written without waking it, as far as the socket takes them; so nothing can end up inside a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Protocol

from aiohttp import web

from streamer.eventlog.frames import comment, retry
from streamer.eventlog.log import Cursor, EventLog
from streamer.sse.outgoing import Outgoing
from streamer.sse.response import StreamOptions

__all__ = ["Answer", "Session", "Source"]

_numbers: Final = count(1)


class Source(Protocol):
    """Where a session's bytes come from."""

    @property
    def cursors(self) -> Sequence[Cursor]:
        """The positions in the logs that it reads; they advance when `sent` is called."""

    async def read(self) -> bytes:
        """Return the next encoded frames, or ``b""`` if there is nothing new."""

    def sent(self) -> None:
        """Called when the bytes of the last `read` were written: only now the positions advance."""

    @property
    def ended(self) -> bool:
        """Whether nothing will follow."""


class Answer(Protocol):
    """The response of a session: an event stream or a download."""

    heartbeat: bytes
    """What is sent when the stream has been idle for the heartbeat interval; may be empty."""
    lingers: bool
    """Whether to wait at the end for the client to close the connection."""

    def opening(self, options: StreamOptions, /) -> bytes:
        """Return the bytes before those of the source: comments and a ``retry`` line, or none."""

    async def prepare(self, request: web.BaseRequest) -> object:
        """Send the headers. Raises ConnectionResetError if the client has left."""

    async def write(self, data: bytes) -> None:
        """Write, and wait while the socket buffer is full."""

    @property
    def unsent_bytes(self) -> int:
        """The written bytes that are in the connection's buffer, and headers before them."""

    @property
    def gone(self) -> bool:
        """Whether the client is known to have left."""

    def abort(self) -> None:
        """Reset the connection, so that a client that does not read notices it."""

    def cut(self) -> None:
        """Close the connection without the end of the body, so that the client notices."""

    def is_connected(self) -> bool:
        """Tell whether `stop_streaming` has something to stop."""

    def stop_streaming(self) -> None:
        """End the background task of the response, if it has one."""


LAG_EVERY: Final = 16
"""One of so many writes tells how late it is."""

FRAMING_BYTES: Final = 32
"""At most what HTTP adds to a write: the size of a chunk, and its end."""


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
    """When it last wrote, on the monotonic clock."""
    client: str | None = None
    """The client it counts for, if clients have shares."""
    outgoing: Outgoing = field(default_factory=Outgoing)
    writing_since: float = math.inf
    """When the write in progress began; infinite if there is none."""
    counted: int = 0
    """Its part of the sum in `outgoing`."""
    on_lag: Callable[[float], None] | None = None
    """Called with the seconds from an event to its write, now and then."""
    _began_at: float = field(default_factory=time.monotonic)
    _until_lag: int = 0
    """After so many writes it looks how late they are; never, from 0 on."""
    _late: tuple[int, float] | None = None
    """An event that it has not written yet, and when that came."""
    _writing: int = 0
    _copied: int = 0
    """What the connection will hold once it has copied what is being written."""
    _in_source: int = 0
    _waiter: asyncio.Future[bool] | None = None
    """What its coroutine waits for; False if it is a heartbeat."""
    _log: EventLog | None = None
    """The log that tells it of news, if they can be written without the coroutine."""
    _read_now: Callable[[], bytes | None] | None = None
    _write_now: Callable[[bytes], int | None] | None = None
    _closing: bool = False
    _urgent: bytes = b""

    @property
    def position(self) -> int:
        """The number of the last event sent, in the first log it follows; 0 if it follows none."""
        cursors = self.source.cursors
        return cursors[0].position if cursors else 0

    @property
    def lag(self) -> int:
        """How many events are not sent yet."""
        return sum(cursor.lag for cursor in self.source.cursors)

    @property
    def held_bytes(self) -> int:
        """The bytes that it holds in memory: in the source, in the write, in the connection."""
        return self._writing + max(self._copied, self.response.unsent_bytes) + self._in_source

    @property
    def closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """End the stream after the write in progress. Clients reconnect until they get a 204."""
        self._closing = True
        self._wake(True)

    def comment(self, text: str = "") -> None:
        """Send a comment, which clients ignore."""
        self._urgent += comment(text)
        self._wake(True)

    def retry(self, milliseconds: int) -> None:
        """Tell the client how long to wait before it reconnects, at least 1 ms."""
        self._urgent += retry(milliseconds)
        self._wake(True)

    def beat(self) -> None:
        """Send a heartbeat, if the session is waiting."""
        self._wake(False)

    def cut_if_stalled(self, since: float) -> None:
        """Cut off the client if the write in progress began before `since`."""
        if self.writing_since <= since:
            self.response.abort()

    async def run(self, options: StreamOptions, leaving: asyncio.Event | None = None) -> None:
        """Send everything up to the end of the source, then wait for the grace period.

        `leaving` ends the grace period. Returns early if the client is gone or was cut off. Raises
        what the source raises.
        """
        self._look_for_shortcut()
        grace_s = options.grace_s if self.response.lingers else 0.0
        if not self._closing and not await self._begin(self.response.opening(options)):
            return
        pending = b""
        while not self._closing:
            data = await self.source.read()
            self._count_source()
            pending += self._urgent
            self._urgent = b""
            if pending or data:
                if not await self._write(pending + data):
                    return
                self._sent()
                # These bytes are sent and no longer counted; reading the next may take long.
                pending = data = b""
            elif self.source.ended:
                if grace_s > 0:
                    await self._linger(grace_s, leaving)
                return
            elif not await self._wait():
                if self.response.gone:
                    return  # without heartbeats to write it would never notice
                pending = self.response.heartbeat
                self.active_at = time.monotonic()

    async def _begin(self, opening: bytes) -> bool:
        """Write the headers, with what is there already, in one packet; False if nobody is there.

        They do not wait for anything else: to read it may take long, or fail.
        """
        data = None
        with contextlib.suppress(Exception):  # `read` meets it too, and raises it
            data = self._read_now() if self._read_now is not None else None
        if not await self._write(opening + (data or b"")):
            return False
        if data:
            self._sent()
        self.active_at = time.monotonic()
        return True

    def _count_source(self) -> None:
        # One built-in source holds back what it has read: that of a paced replay.
        held: int = getattr(self.source, "held_bytes", 0)
        if held != self._in_source:
            self._in_source = held
            self.outgoing.count(self)

    async def _write(self, data: bytes) -> bool:
        """Write to the client; False if it is gone, or was cut off because it stalled."""
        self.writing_since = time.monotonic()
        self._writing = len(data)
        # The connection copies what it cannot send at once, behind what it has, with its framing.
        self._copied = self.response.unsent_bytes + len(data) + FRAMING_BYTES
        self.outgoing.count(self)
        try:
            await self.response.write(data)
        except ConnectionError:  # not always ConnectionResetError: aiohttp raises several
            return False
        finally:
            self.writing_since = math.inf
            self._writing = self._copied = 0
            self.outgoing.count(self)
        return True

    async def _wait(self) -> bool:
        """Wait for something to do; False if it is a heartbeat."""
        cursors = self.source.cursors
        # Events that came while `read` waited for the disk woke nobody.
        if self._closing or self._urgent or any(cursor.lag for cursor in cursors):
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiter = waiter
        log = self._log
        if log is not None:
            log.listen(self._pass_on)
        else:
            for cursor in cursors:
                cursor.log.watch(waiter)
        try:
            return await waiter
        finally:
            self._waiter = None
            if log is not None:
                log.unlisten(self._pass_on)
            else:
                for cursor in cursors:
                    cursor.log.unwatch(waiter)

    def _look_for_shortcut(self) -> None:
        """Set what `_pass_on` needs, if source and response have it; those of others need not."""
        cursors = self.source.cursors
        # Of their own classes: one that wraps another, and passes on what it does not know, would
        # give away the method of what it wraps, past its own.
        if hasattr(type(self.source), "read_now") and hasattr(type(self.response), "write_now"):
            self._read_now = getattr(self.source, "read_now", None)
            self._write_now = getattr(self.response, "write_now", None)
        if len(cursors) == 1 and self._read_now is not None and self._write_now is not None:
            log = cursors[0].log
            self._log = log if isinstance(log, EventLog) else None  # an engine may have others
        if self._log is not None and self.on_lag is not None:
            self._until_lag = 1

    def _pass_on(self) -> None:
        """Write what is new without the coroutine, while it waits; wake it if that cannot be."""
        if self._waiter is None or self._waiter.done():
            return  # it is awake
        try:
            written = self._wrote_news()
        except Exception:  # noqa: BLE001 - the coroutine meets it too, and raises it
            written = False
        if not written or (self._log is not None and self._log.done):
            self._wake(True)

    def _wrote_news(self) -> bool:
        """Write everything that is new, if neither source nor socket need a wait."""
        assert self._read_now is not None
        assert self._write_now is not None
        data = self._read_now()
        if not data:
            return data is not None  # it was read already, before this could be called
        unsent = self._write_now(data)
        if unsent is None:
            return False
        self._sent()
        if unsent or self.counted:
            self.outgoing.count(self)
        return True

    def _sent(self) -> None:
        self.source.sent()
        self.active_at = time.monotonic()
        self._until_lag -= 1
        if not self._until_lag:
            self._tell_lag()

    def _tell_lag(self) -> None:
        """Tell how late the newest event is, as soon as it is written."""
        log, tell = self._log, self.on_lag
        assert log is not None
        assert tell is not None
        number, came_at = self._late or (log.last_id, log.appended_at)
        self._until_lag = 1  # look again
        if came_at < self._began_at:
            return  # it was there before its reader
        if self.position < number:
            self._late = number, came_at
            return
        self._late, self._until_lag = None, LAG_EVERY
        tell(self.active_at - came_at)

    async def _linger(self, grace_s: float, leaving: asyncio.Event | None) -> None:
        loop = asyncio.get_running_loop()
        over = loop.call_later(grace_s, self.close)
        left = None if leaving is None else loop.create_task(self._close_after(leaving))
        try:
            while not self._closing:
                self._waiter = loop.create_future()  # a heartbeat ends the wait too
                await self._waiter
        finally:
            self._waiter = None
            over.cancel()
            if left is not None:
                left.cancel()

    async def _close_after(self, event: asyncio.Event) -> None:
        await event.wait()
        self.close()

    def _wake(self, value: bool) -> None:  # noqa: FBT001 - the result of a wait
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(value)

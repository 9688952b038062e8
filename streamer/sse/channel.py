"""Broadcast events to many sessions, and push them to one, from an application's own code.

Both are logs with readers: a channel's log keeps a history that late and returning clients are
given, a single session's is forgotten as it is sent.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from aiohttp import web

from streamer.sse.frames import Serializer, check_field, data_value, to_json
from streamer.sse.log import Cursor, EventLog
from streamer.sse.response import EventStream, StreamOptions, client_id, id_number
from streamer.sse.session import Session, SessionMap
from streamer.sse.sources import FilteredSource, LogSource, Predicate

__all__ = ["Batch", "Channel", "EventSink", "PushSession", "open_session"]

MAX_DIGITS: Final = 15
WINDOW_BYTES: Final = 256 * 1024
"""What may wait to be sent to one session before whoever pushes to it waits too."""

Recipients = Callable[[Mapping[str, Any]], bool]
"""Tells by a session's `state` whether an event is for it."""


class Batch:
    """Events that are sent with one write; see `EventSink.batch`."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self.events: list[tuple[str, bytes]] = []

    def push(self, data: Any, event: str = "message") -> None:
        """Add an event. Raises ValueError for an event name with a line end or NUL."""
        name = check_field("event", event)
        self.events.append((name, data_value(self._serializer(data))))


class EventSink(ABC):
    """What events can be pushed to. Data is serialised once, by `serializer`."""

    def __init__(self, serializer: Serializer) -> None:
        self.serializer = serializer

    def push(self, data: Any, event: str = "message") -> int:
        """Send an event and return its id.

        Raises ValueError for an event name with a line end or NUL, RuntimeError after the end.
        """
        with self.batch() as batch:
            batch.push(data, event)
        return self.last_id

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect events; they are sent as one at the end of the block, none if it raises."""
        batch = Batch(self.serializer)
        yield batch
        self._send(batch.events)

    async def iterate(
        self, source: Iterable[Any] | AsyncIterable[Any], event: str = "iteration"
    ) -> None:
        """Push what an iterable gives, as fast as it is taken."""
        async for item in _each(source):
            self.push(item, event)
            await self._room()

    async def stream(
        self, chunks: Iterable[bytes] | AsyncIterable[bytes], event: str = "stream"
    ) -> None:
        """Push the text of a stream of bytes; a character that two chunks share stays whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async for chunk in _each(chunks):
            if text := decoder.decode(chunk):
                self.push(text, event)
                await self._room()
        if text := decoder.decode(b"", final=True):
            self.push(text, event)

    @property
    @abstractmethod
    def last_id(self) -> int:
        """The id of the newest event."""

    @abstractmethod
    def _send(self, events: Sequence[tuple[str, bytes]]) -> None: ...

    @abstractmethod
    async def _room(self) -> None: ...


class Channel(EventSink):
    """One sequence of events for any number of sessions, with a history.

    A client that comes, or comes back after an event that it names, gets what followed of the last
    `history_events` events, `history_bytes` bytes and `history_s` seconds, and a ``gap`` event
    for what is gone. `sessions` may be shared with other channels.
    """

    def __init__(
        self,
        name: str = "channel",
        *,
        history_events: int = 1000,
        history_bytes: int = 1024 * 1024,
        history_s: float | None = None,
        serializer: Serializer = to_json,
        sessions: SessionMap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(serializer)
        self.name = name
        self.log = EventLog()
        self.sessions = sessions or SessionMap()
        self._history_events = history_events
        self._history_bytes = history_bytes
        self._history_s = history_s
        self._clock = clock
        self._times: deque[tuple[float, int]] = deque()
        self._recipients: dict[int, Recipients] = {}

    @property
    def last_id(self) -> int:
        """The id of the newest event."""
        return self.log.last_id

    def broadcast(self, data: Any, event: str = "message", *, to: Recipients | None = None) -> int:
        """Send an event to all sessions, or those that `to` chooses, and return its id.

        `to` is asked once for each session that is given the event, also for one that comes back
        for it later.
        """
        if to is not None:
            self._recipients[self.last_id + 1] = to
        try:
            return self.push(data, event)
        except BaseException:
            self._recipients.pop(self.last_id + 1, None)
            raise

    async def respond(
        self,
        request: web.BaseRequest,
        *,
        wanted: Predicate | None = None,
        replay: bool = False,
        state: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Answer a request with the channel's events and return the response once it is over.

        A client that sends an id resumes after it; another one begins with what comes next, or,
        with `replay`, with the whole history. `wanted` filters for this session by number, name and
        data. When the channel is closed and all was sent the answer is 204, which stops a browser.
        Raises `Full`.
        """
        text = client_id(request, self.sessions.options)
        anew = 0 if replay else self.last_id
        after = id_number(text, self.last_id) if text else anew
        if self.log.done and after >= self.last_id:
            return web.Response(status=204)
        shared = {} if state is None else state
        with self.log.cursor(after) as cursor:
            source = _ChannelSource(cursor, self._recipients, wanted, shared)
            return await self.sessions.follow(
                request, (self.name,), source, headers=headers, state=shared
            )

    def close(self) -> None:
        """End the channel: each session ends once it has everything. Idempotent."""
        if not self.log.done:
            self.log.append((), end=True)

    def _send(self, events: Sequence[tuple[str, bytes]]) -> None:
        self.log.append(events)
        now = self._clock()
        self._times.append((now, self.last_id))
        self._forget(now)

    def _forget(self, now: float) -> None:
        oldest = self.last_id - self._history_events + 1
        if self._history_s is not None:
            while self._times and self._times[0][0] < now - self._history_s:
                oldest = max(oldest, self._times.popleft()[1] + 1)
        self.log.drop_before(oldest)
        if self.log.memory_bytes > self._history_bytes:
            self.log.drop(self.log.memory_bytes - self._history_bytes)
        while self._times and self._times[0][1] < self.log.first_id:
            self._times.popleft()
        for number in [n for n in self._recipients if n < self.log.first_id]:
            del self._recipients[number]

    async def _room(self) -> None:
        await asyncio.sleep(0)  # readers are not waited for; but others shall run


class _ChannelSource(FilteredSource):
    """A channel's log as one session sees it."""

    def __init__(
        self,
        cursor: Cursor,
        recipients: Mapping[int, Recipients],
        wanted: Predicate | None,
        state: Mapping[str, Any],
    ) -> None:
        def for_it(number: int, kind: str, data: bytes) -> bool:
            chosen = recipients.get(number)
            if chosen is not None and not chosen(state):
                return False
            return wanted is None or wanted(number, kind, data)

        super().__init__(cursor, for_it)
        self._recipients = recipients
        self._choosy = wanted is not None

    async def read(self) -> bytes:
        """Return the next frames; without a filter as they are, the same bytes for everyone."""
        if self._choosy or self._recipients:
            return await super().read()
        return await LogSource.read(self)


class PushSession(EventSink):
    """One client that events are pushed to; made by `open_session`.

    `response` is what the handler returns; `last_event_id` what the client sent, for the
    application to resume after; `state` is the application's. Once the client is gone, pushing
    raises ConnectionResetError.
    """

    def __init__(
        self, session: Session, log: EventLog, cursor: Cursor, asked: str, serializer: Serializer
    ) -> None:
        super().__init__(serializer)
        self._session = session
        self._log = log
        self._cursor = cursor
        self._gone = False
        self.last_event_id = asked
        self.state = session.state

    @property
    def response(self) -> EventStream:
        """The response."""
        return self._session.response

    @property
    def last_id(self) -> int:
        """The id of the newest event."""
        return self._log.last_id

    @property
    def connected(self) -> bool:
        """Whether the client is still there, as far as is known."""
        return not self._gone

    def comment(self, text: str = "") -> None:
        """Send a comment, which no client shows."""
        self._session.comment(text)

    def retry(self, milliseconds: int) -> None:
        """Tell the client when to come back after a lost connection."""
        self._session.retry(milliseconds)

    def close(self) -> None:
        """End the stream; what was pushed is still sent. Idempotent."""
        if not self._log.done:
            self._log.append((), end=True)

    async def drain(self) -> None:
        """Wait until little is left to be sent: so a slow client slows its source."""
        await self._room()

    def lost(self) -> None:
        """Say that the client is gone."""
        self._gone = True
        self._log.reader_moved()

    def _send(self, events: Sequence[tuple[str, bytes]]) -> None:
        if self._gone:
            raise ConnectionResetError("the client has left")
        self._log.append(events)

    async def _room(self) -> None:
        await asyncio.sleep(0)
        while self._log.memory_bytes > WINDOW_BYTES and not self._gone:
            self._log.drop_before(self._cursor.position + 1)
            if self._log.memory_bytes > WINDOW_BYTES:
                await self._log.progress(1.0)
        self._log.drop_before(self._cursor.position + 1)


@asynccontextmanager
async def open_session(
    request: web.BaseRequest,
    *,
    sessions: SessionMap | None = None,
    options: StreamOptions | None = None,
    serializer: Serializer = to_json,
    key: str = "session",
    state: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[PushSession]:
    """Open a stream to one client for the time of a block.

    Leaving the block ends the stream, once everything was sent. Ids go on from the number that the
    client sent, if it is one. Raises `Full` before anything is sent.
    """
    sessions = sessions or SessionMap(options or StreamOptions(grace_s=0))
    asked = client_id(request, sessions.options)
    log = EventLog(first=id_number(asked, 10**MAX_DIGITS) + 1)
    response = EventStream(request, sessions.options, headers)
    with log.cursor(log.last_id) as cursor:
        session = Session(
            (key,),
            response,
            request.remote or "",
            LogSource(cursor),
            {} if state is None else state,
        )
        pushing = PushSession(session, log, cursor, asked, serializer)
        with sessions.tracked(session):
            await response.prepare(request)
            serving = asyncio.create_task(sessions.serve(session))
            serving.add_done_callback(lambda _: pushing.lost())
            try:
                yield pushing
            except BaseException:
                # Cut, not ended: the client shall come back.
                serving.cancel()
                raise
            finally:
                pushing.close()
                await asyncio.gather(serving, return_exceptions=True)


async def _each(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item

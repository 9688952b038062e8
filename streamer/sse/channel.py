"""Broadcast events to many sessions from an application's own code.

A channel is a log with readers. The events it keeps for new and returning clients are its history;
older ones, kept only because an open session has not read them yet, are its backlog.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from aiohttp import web

from streamer.eventlog.frames import Serializer, gap_frame, to_json
from streamer.eventlog.log import Cursor, EventLog
from streamer.sse.response import client_id, id_number
from streamer.sse.sessionmap import SessionMap
from streamer.sse.sink import Batch, EventSink
from streamer.sse.sources import FilteredSource, LogSource, MergedSource, Predicate, Tag

__all__ = ["Channel", "Recipients", "respond_merged", "tag_with_channel"]

log: Final = logging.getLogger(__name__)

Recipients = Callable[[Mapping[str, Any]], bool]
"""Decides by a session's `state` whether an event is sent to it."""


class Channel(EventSink):
    """One sequence of events for any number of sessions, with a history.

    A client that resumes after an event gets the events since then that are in the history: at
    most `history_events` events, `history_bytes` bytes of data and `history_s` seconds. If some
    it missed are no longer there, a ``gap`` event comes first. For sessions that are behind,
    `backlog_bytes` more are kept; a session that is further behind gets a gap.

    Ids start at the time in microseconds, or at `first_id`, and go up by one. So an id from
    before a restart is lower than all new ones, and its client gets a gap, unless there were more
    than a million events a second or the clock was set back. `name` is the key of the channel's
    sessions in `sessions`, which channels may share.
    """

    def __init__(
        self,
        name: str,
        *,
        history_events: int = 1000,
        history_bytes: int = 1024 * 1024,
        history_s: float | None = None,
        backlog_bytes: int = 4 * 1024 * 1024,
        first_id: int | None = None,
        serializer: Serializer = to_json,
        sessions: SessionMap | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if first_id is not None and first_id < 1:
            raise ValueError("first_id must be at least 1: a client could not resume after it")
        if min(history_events, history_bytes, backlog_bytes, history_s or 0) < 0:
            raise ValueError("history_* and backlog_bytes must be at least 0")
        super().__init__(serializer)
        self.name = name
        self.sessions = SessionMap() if sessions is None else sessions
        self._log = EventLog(first=time.time_ns() // 1000 if first_id is None else first_id)
        self._history: deque[tuple[float, int]] = deque()  # time and size of each event
        self._history_size = 0
        self._history_events = history_events
        self._history_bytes = history_bytes
        self._history_s = history_s
        self._most_bytes = history_bytes + backlog_bytes
        self._clock = clock
        self._recipients: dict[int, Recipients] = {}
        self._last_chosen = 0

    @property
    def last_id(self) -> int:
        """The id of the newest event; before the first event, one less than its id will be."""
        return self._log.last_id

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._log.done

    @property
    def history_size(self) -> int:
        """How many events a new client can get."""
        self._expire()
        return self.last_id + 1 - self._oldest

    def broadcast(self, data: Any, event: str = "message", *, to: Recipients | None = None) -> int:
        """Send an event to all sessions, or to those that `to` chooses by their state.

        Returns its id. `to` is called when a session is about to get the event, which may be later,
        after a reconnect; if it raises, that session does not get it. Raises what `push` raises.
        """
        with self.batch(to=to) as batch:
            batch.push(data, event)
        return self.last_id

    @contextmanager
    def batch(self, *, to: Recipients | None = None) -> Iterator[Batch]:
        """Collect events as `EventSink.batch` does; `to` is that of `broadcast`."""
        with super().batch() as batch:
            yield batch
        if to is not None and batch.events:
            # Sessions wake only after this code, and look then.
            self._last_chosen = self.last_id
            for number in range(self.last_id - len(batch.events) + 1, self.last_id + 1):
                self._recipients[number] = to

    async def respond(
        self,
        request: web.BaseRequest,
        *,
        wanted: Predicate | None = None,
        replay: bool = False,
        state: dict[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Answer a request with the channel's events; return the response once it is over.

        It can serve as a handler. A client that sends an id resumes after it; any other starts
        with the next event or, with `replay`, with the history. `wanted` filters this session's
        events by number, name and data; if it raises, the event is withheld. `to` is called with
        `state`. If the channel is closed and the client has everything, the answer is 204, which
        stops a browser from reconnecting. Raises `Full`.
        """
        after, missed = self._place(client_id(request, self.sessions.options), replay=replay)
        if self._log.done and after >= self.last_id and not missed:
            return _over(self.sessions, headers)
        shared = {} if state is None else state
        with self._log.cursor(after) as cursor:
            source = _ChannelSource(self, cursor, shared, wanted, missed)
            return await self.sessions.follow(
                request, self.name, source, headers=headers, state=shared
            )

    def close(self) -> None:
        """End the channel: each session ends once it has sent everything. Idempotent."""
        if not self._log.done:
            self._log.append((), end=True)

    def _place(self, asked: str, *, replay: bool) -> tuple[int, bytes]:
        """Return the event after which a client starts, and a gap frame if it missed some."""
        self._expire()
        if not asked:
            return (self._oldest - 1 if replay else self.last_id), b""
        after = id_number(asked, self.last_id)
        if after >= self._oldest - 1:
            return after, b""
        return self._oldest - 1, gap_frame(after, self._oldest - 1)

    def _send(self, events: Sequence[tuple[str, bytes]]) -> None:
        if not events:
            return
        self._log.append(events)
        now = self._clock()
        self._history.extend((now, len(data)) for _, data in events)
        self._history_size += sum(len(data) for _, data in events)
        self._expire()
        self._trim()

    async def _room(self) -> None:
        await asyncio.sleep(0)  # let readers run, without waiting for them

    @property
    def _oldest(self) -> int:
        """The number of the first event of the history."""
        return max(self.last_id - len(self._history) + 1, self._log.first_id)

    def _expire(self) -> None:
        """Drop what is too old for the history."""
        since = -float("inf") if self._history_s is None else self._clock() - self._history_s
        while self._history and (
            len(self._history) > self._history_events
            or self._history_size > self._history_bytes
            or self._history[0][0] < since
        ):
            self._history_size -= self._history.popleft()[1]

    def _trim(self) -> None:
        """Drop what is neither history nor backlog, many events at a time."""
        excess = self._log.memory_bytes - self._most_bytes
        if excess <= 0 and self._oldest - self._log.first_id <= len(self._history) // 4:
            return
        self._log.drop_before(min(self._oldest, self._log.taken(self.last_id) + 1))
        excess = self._log.memory_bytes - self._most_bytes
        if excess > 0:
            self._log.drop(excess)
        first = self._log.first_id
        while self._recipients and (number := next(iter(self._recipients))) < first:
            del self._recipients[number]


class _ChannelSource(FilteredSource):
    def __init__(
        self,
        channel: Channel,
        cursor: Cursor,
        state: Mapping[str, Any],
        wanted: Predicate | None,
        missed: bytes,
    ) -> None:
        super().__init__(cursor, self._is_for_it)
        self._channel = channel
        self._state = state
        self._filter = wanted
        self._missed = missed
        self._failed = False

    async def read(self) -> bytes:
        """Return the next frames; without filters, the same bytes object for every session."""
        if self._missed:
            missed, self._missed = self._missed, b""
            return missed
        if self._is_for_all:
            return await LogSource.read(self)
        return await super().read()

    def read_now(self) -> bytes | None:
        """Return the same if it need not be filtered, nor waited for; None otherwise."""
        return self._read_now() if self._is_for_all and not self._missed else None

    @property
    def _is_for_all(self) -> bool:
        """Whether there is nothing to filter in what follows."""
        return self._filter is None and self._cursor.position >= self._channel._last_chosen  # noqa: SLF001 - its other half

    @property
    def ended(self) -> bool:
        return not self._missed and super().ended

    def _is_for_it(self, number: int, kind: str, data: bytes) -> bool:
        to = self._channel._recipients.get(number)  # noqa: SLF001 - its other half
        try:
            return bool(
                (to is None or to(self._state))
                and (self._filter is None or self._filter(number, kind, data))
            )
        except Exception:
            if not self._failed:
                log.exception("a filter of %s failed: the event is withheld", self._channel.name)
            self._failed = True
            return False


def tag_with_channel(name: str, data: bytes) -> bytes:
    """Put an event's JSON into an object beside its channel's name: ``{"channel", "data"}``."""
    return b'{"channel":%b,"data":%b}' % (to_json(name).encode(), data)


async def respond_merged(
    request: web.BaseRequest,
    channels: Sequence[Channel],
    *,
    sessions: SessionMap | None = None,
    replay: bool = False,
    tag: Tag = tag_with_channel,
    state: dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Answer a request with the events of several channels in one stream, as `Channel.respond`.

    A browser opens at most six connections to a host; this needs one. An event's id has a
    position for each channel, so pass the same channels in the same order when a client
    reconnects. The session is kept in `sessions`, by default those of the first channel.
    Raises `Full`, and ValueError for two channels with the same name.
    """
    if len({channel.name for channel in channels}) < len(channels):
        raise ValueError("the channels of a stream must have different names")
    followed = channels[0].sessions if sessions is None else sessions
    asked = client_id(request, followed.options)
    parts = asked.split(".") if asked else [""] * len(channels)
    if len(parts) != len(channels):
        parts = ["?"] * len(channels)  # an id of other channels: no position in any of these
    places = [
        channel._place(part, replay=replay)  # noqa: SLF001 - of this module
        for channel, part in zip(channels, parts, strict=True)
    ]
    pairs = list(zip(channels, places, strict=True))
    if all(c.closed and after >= c.last_id and not missed for c, (after, missed) in pairs):
        return _over(followed, headers)
    shared = {} if state is None else state
    with ExitStack() as stack:
        sources: dict[str, LogSource] = {}
        for channel, (after, missed) in pairs:
            cursor = stack.enter_context(channel._log.cursor(after))  # noqa: SLF001 - of this module
            sources[channel.name] = _ChannelSource(channel, cursor, shared, None, missed)
        return await followed.follow(
            request, list(sources), MergedSource(sources, tag), headers=headers, state=shared
        )


def _over(sessions: SessionMap, headers: Mapping[str, str] | None) -> web.Response:
    # Without its CORS headers a page of another origin could not read the answer.
    return web.Response(status=204, headers={**sessions.options.headers, **(headers or {})})

"""The session map: who follows what, since when, and how far behind.

One timer for all sessions finds those that need a heartbeat and those whose client has stalled.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from aiohttp import web

from streamer.bounded import ends_in
from streamer.sse.outgoing import Outgoing
from streamer.sse.response import EventStream, StreamOptions
from streamer.sse.session import Answer, Session, Source

__all__ = ["Full", "SessionMap", "SessionView"]

log: Final = logging.getLogger(__name__)

PULSES_A_HEARTBEAT: Final = 8
BEATS_AT_ONCE: Final = 200
BEATS_PAUSE_S: Final = 0.02
RETRY_AFTER_S: Final = 5
SHUTDOWN_S: Final = 2.0

Change = Literal["opened", "closed"]
Listener = Callable[[Session, Change], None]


class Full(web.HTTPServiceUnavailable):
    """A limit on the number of sessions is reached; the message says which.

    Raised in a handler it becomes the answer: 503 with ``Retry-After``. `of_client` is whether it
    is the limit for one client.
    """

    def __init__(self, message: str, *, of_client: bool = False) -> None:
        super().__init__(text=message, headers={"Retry-After": str(RETRY_AFTER_S)})
        self._message = message
        self.of_client = of_client

    def __str__(self) -> str:
        return self._message


@dataclass(frozen=True, slots=True)
class SessionView:
    """A snapshot of a session.

    `key` is what it follows, `since` in seconds since the epoch, `peer` the client's address,
    `position` the number of the last event sent and `lag` how many are not sent yet.
    """

    number: int
    key: str
    peer: str
    since: float
    position: int
    lag: int


class SessionMap:
    """The open sessions, by what they follow.

    At most `max_per_key` sessions follow one key, `max_per_client` (a number, or a function of the
    client's name that returns one) belong to one client, and
    `max_sessions` are open in total. If more than `max_buffered_bytes` wait to be sent, the clients
    that have stalled for the longest time are cut off; maps may share the `outgoing` that counts
    this. Once `leaving` is set no stream stays open after its last event. Listeners are called for
    every session that opens and closes; their exceptions are logged and have no effect. An
    application must end its streams on shutdown, or aiohttp waits for them:
    ``app.on_shutdown.append(sessions.shutdown)``.
    """

    def __init__(
        self,
        options: StreamOptions | None = None,
        *,
        max_per_key: int = 1000,
        max_sessions: int | None = 20_000,
        max_per_client: int | Callable[[str], int | None] | None = None,
        max_buffered_bytes: int | None = 256 * 1024 * 1024,
        outgoing: Outgoing | None = None,
        leaving: asyncio.Event | None = None,
        address_of: Callable[[web.BaseRequest], str] | None = None,
    ) -> None:
        self.options = options or StreamOptions()
        self._max_per_key = max_per_key
        self._max_sessions = max_sessions
        self._share_of = max_per_client if callable(max_per_client) else lambda _: max_per_client
        self._clients: Counter[str] = Counter()
        self.outgoing = Outgoing(max_buffered_bytes) if outgoing is None else outgoing
        self._sessions: dict[str, set[Session]] = {}
        self._all: set[Session] = set()
        self._listeners: list[Listener] = []
        self.on_lag: Callable[[float], None] | None = None
        """Called with the seconds from an event to its write to a client, for a sample of them."""
        self._pulse: asyncio.TimerHandle | None = None
        self._leaving = leaving
        self._address_of = address_of or (lambda request: request.remote or "")

    def __len__(self) -> int:
        return len(self._all)

    def of(self, key: str) -> Sequence[Session]:
        """Return the open sessions that follow `key`, oldest first."""
        return sorted(self._sessions.get(key, ()), key=_number)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(session, "opened" or "closed")`` for every session from now on.

        Returns a function that removes the listener.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def snapshot(self) -> Mapping[str, Sequence[SessionView]]:
        """Return snapshots of all open sessions by key, oldest first."""
        return {key: self.views(key) for key in self._sessions}

    def views(self, key: str) -> Sequence[SessionView]:
        """Return snapshots of the open sessions that follow `key`, oldest first."""
        return [
            SessionView(s.number, key, s.peer, s.since, s.position, s.lag) for s in self.of(key)
        ]

    def close(self, key: str | None = None) -> None:
        """Close all sessions, or those that follow `key`. Their clients reconnect."""
        for session in tuple(self._all) if key is None else self.of(key):
            session.close()

    async def shutdown(
        self, app: web.Application | None = None, *, timeout_s: float = SHUTDOWN_S
    ) -> None:
        """Close every session and wait until all are gone; after `timeout_s` cut off the rest.

        A session whose client has stalled cannot be closed otherwise. Fits aiohttp's `on_shutdown`.
        """
        self.close()
        if not self._all:
            return
        gone = asyncio.Event()
        unlisten = self.listen(lambda *_: None if self._all else gone.set())
        try:
            if not await ends_in(timeout_s, gone.wait()):
                for session in self._all:
                    session.response.abort()
        finally:
            unlisten()

    async def follow(
        self,
        request: web.BaseRequest,
        keys: str | Sequence[str],
        source: Source,
        *,
        headers: Mapping[str, str] | None = None,
        state: dict[str, Any] | None = None,
        client: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request with the events of `source`; return the response once it is over.

        The session counts for each of `keys`, and for `client` if clients have shares. A HEAD
        request gets the headers only. Raises `Full` before anything is sent.
        """
        response = EventStream(request, self.options, headers)
        response.hold_headers()
        await self.send(request, response, keys, source, state=state, client=client)
        return response

    async def send(
        self,
        request: web.BaseRequest,
        response: Answer,
        keys: str | Sequence[str],
        source: Source,
        *,
        state: dict[str, Any] | None = None,
        client: str | None = None,
    ) -> None:
        """Send the bytes of `source` as a response of any kind; otherwise as `follow`."""
        names = (keys,) if isinstance(keys, str) else tuple(dict.fromkeys(keys))
        shared = {} if state is None else state
        session = Session(names, response, self._address_of(request), source, shared, client=client)
        with self.tracked(session):
            try:
                await response.prepare(request)
            except ConnectionResetError:
                return  # the client has left already
            if request.method == "HEAD":
                session.close()
            await self.serve(session)

    async def serve(self, session: Session) -> None:
        """Run a session whose response is prepared.

        After an error of its source the connection is cut, and the error raised.
        """
        try:
            await session.run(self.options, self._leaving)
        except Exception:
            session.response.cut()
            raise
        finally:
            if session.response.is_connected():
                session.response.stop_streaming()  # ends the ping task of aiohttp-sse

    def check_room(self, client: str | None = None) -> None:
        """Raise `Full` if no further session can be opened, whatever its key."""
        if self._max_sessions is not None and len(self._all) >= self._max_sessions:
            raise Full(f"{self._max_sessions} streams are open, which is the most")
        share = None if client is None else self._share_of(client)
        if share is not None and client is not None and self._clients[client] >= share:
            raise Full(
                f"you have {share} streams open, which is the most for one client", of_client=True
            )

    @contextmanager
    def tracked(self, session: Session) -> Iterator[None]:
        """Keep a session in the map for the duration of a block. Raises `Full`."""
        self._check_room(session)
        self._add(session)
        self._keep_pulse()
        self._tell(session, "opened")
        try:
            yield
        finally:
            self._remove(session)
            if not self._all and self._pulse is not None:
                # A map may outlive its event loop, and the next loop needs a new timer.
                self._pulse.cancel()
                self._pulse = None
            self._tell(session, "closed")

    def _check_room(self, session: Session) -> None:
        self.check_room(session.client)
        for key in session.keys:
            if len(self._sessions.get(key, ())) >= self._max_per_key:
                raise Full(f"{key} has {self._max_per_key} readers, which is the most")

    def _add(self, session: Session) -> None:
        session.outgoing = self.outgoing
        session.on_lag = self.on_lag
        self._all.add(session)
        if session.client is not None:
            self._clients[session.client] += 1
        for key in session.keys:
            self._sessions.setdefault(key, set()).add(session)

    def _remove(self, session: Session) -> None:
        self._all.discard(session)
        self.outgoing.forget(session)
        if session.client is not None:
            self._clients[session.client] -= 1
            if not self._clients[session.client]:
                del self._clients[session.client]
        for key in session.keys:
            remaining = self._sessions[key]
            remaining.discard(session)
            if not remaining:
                del self._sessions[key]

    def _tell(self, session: Session, change: Change) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(session, change)
            except Exception:
                log.exception("a listener for sessions failed")

    def _keep_pulse(self, after_s: float | None = None) -> None:
        """Look for idle and for stalled sessions from time to time, as long as there are any.

        One timer for all: ten thousand idle streams cost a walk over a set now and then instead
        of a timer for each stream or each write.
        """
        shortest_s = min(self.options.heartbeat_s, self.options.write_timeout_s)
        if self._pulse is None and shortest_s < math.inf:
            interval_s = shortest_s / PULSES_A_HEARTBEAT
            loop = asyncio.get_running_loop()
            self._pulse = loop.call_later(after_s or interval_s, self._beat)

    def _beat(self) -> None:
        self._pulse = None
        now = time.monotonic()
        silent_since = now - self.options.heartbeat_s
        silent: list[Session] = []
        for session in self._all:
            session.cut_if_stalled(now - self.options.write_timeout_s)
            if session.active_at <= silent_since:
                silent.append(session)
        for session in silent[:BEATS_AT_ONCE]:
            session.beat()
        if self._all:
            # Thousands of streams that were opened together are idle together: writing to all
            # of them in one step would block the event loop.
            self._keep_pulse(BEATS_PAUSE_S if len(silent) > BEATS_AT_ONCE else None)


def _number(session: Session) -> int:
    return session.number

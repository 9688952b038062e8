"""Push events to one client from an application's own handler.

A session is a log with one reader: a task beside the handler's writes what the handler pushes, and
what was written is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from streamer.eventlog.frames import Serializer, to_json
from streamer.eventlog.log import EventLog
from streamer.sse.response import MAX_ID_DIGITS, EventStream, StreamOptions, client_id, id_number
from streamer.sse.session import Session
from streamer.sse.sessionmap import SessionMap
from streamer.sse.sink import EventSink
from streamer.sse.sources import LogSource

__all__ = ["PushSession", "open_session"]

log: Final = logging.getLogger(__name__)

WINDOW_BYTES: Final = 256 * 1024
"""`drain` waits while more than this is unsent."""

BACKLOG_BYTES: Final = 8 * 1024 * 1024
"""A client with more than this unsent is cut off."""

PROGRESS_S: Final = 1.0


class PushSession(EventSink):
    """One client that events are pushed to; made by `open_session`.

    `response` is for the handler to return; `last_event_id` is the id that the client sent, for the
    application to resume after; `state` belongs to the application. Pushing never waits: await
    `drain` between many events. Once the client is gone, or more than 8 MiB are unsent, pushing
    raises ConnectionResetError.
    """

    def __init__(
        self,
        session: Session,
        response: EventStream,
        events: EventLog,
        asked: str,
        serializer: Serializer,
    ) -> None:
        super().__init__(serializer)
        self.response = response
        self._session = session
        self._log = events
        self._over = False
        self._reset = ConnectionResetError("the client has left, or its session was closed")
        self._block: asyncio.Timeout | None = None
        self.last_event_id = asked
        self.state = session.state

    @property
    def last_id(self) -> int:
        """The id of the newest event; before the first event, the id that the client sent."""
        return self._log.last_id

    @property
    def connected(self) -> bool:
        """Whether the client is still connected, as far as is known."""
        return not self._over

    def comment(self, text: str = "") -> None:
        """Send a comment, which clients ignore, before events that are unsent. Raises as `push`."""
        self._check()
        self._session.comment(text)

    def retry(self, milliseconds: int) -> None:
        """Tell the client how long to wait before it reconnects, at least 1 ms."""
        self._check()
        self._session.retry(milliseconds)

    def close(self) -> None:
        """End the stream; pushed events are still sent. Idempotent."""
        if not self._log.done:
            self._log.append((), end=True)

    async def drain(self) -> None:
        """Wait until at most 256 KiB are unsent, so that a slow client slows its source.

        Raises ConnectionResetError once the client is gone.
        """
        await self._room()

    def _send(self, events: Sequence[tuple[str, bytes]]) -> None:
        self._check()
        if events:
            self._log.append(events)
            if self._log.memory_bytes > WINDOW_BYTES:
                self._forget()

    async def _room(self) -> None:
        await asyncio.sleep(0)
        self._forget()
        while self._log.memory_bytes > WINDOW_BYTES and not self._over:
            await self._log.progress(PROGRESS_S)
            self._forget()
        if self._over and not self._log.done:
            raise self._reset

    def _forget(self) -> None:
        """Drop what was sent."""
        self._log.drop_before(self._session.position + 1)

    def _check(self) -> None:
        if self._log.done:
            raise RuntimeError("the session was closed")
        if not self._over and self._log.memory_bytes > BACKLOG_BYTES:
            log.warning(
                "%s was cut off: it has more than %d bytes unsent",
                self._session.peer,
                BACKLOG_BYTES,
            )
            self._session.response.abort()
            self._end()
        if self._over:
            raise self._reset

    def _end(self) -> None:
        """Refuse further events, and cancel the handler's block."""
        self._over = True
        self._log.reader_moved()
        if self._block is not None and not self._log.done:
            self._block.reschedule(0)
            self._block = None

    @asynccontextmanager
    async def _while_connected(self) -> AsyncIterator[None]:
        """Run a block, and cancel it when the client is gone."""
        block = self._block = asyncio.timeout(None)
        try:
            async with block:
                if self._over:
                    self._end()
                yield
        except TimeoutError:
            if not block.expired():
                raise
        except ConnectionResetError as error:
            if error is not self._reset:
                raise
        finally:
            self._block = None


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
    """Open a stream to one client for the duration of a block.

    Leaving the block sends the rest and ends the stream; an exception cuts it off, so that the
    client reconnects. When the client leaves, the block is cancelled, and execution continues
    after the block. Ids continue from the id that the client sent, if it is a number.

    The session is kept in `sessions` under `key` and has the options of that map. Without
    `sessions` it has `options`, and the number of sessions is not bounded. Raises `Full` before
    anything is sent, TypeError for both `sessions` and `options`.
    """
    if sessions is None:
        sessions = SessionMap(options or StreamOptions(grace_s=0))
    elif options is not None:
        raise TypeError("a SessionMap has its own options")
    asked = client_id(request, sessions.options)
    events = EventLog(first=id_number(asked, 10**MAX_ID_DIGITS) + 1)
    response = EventStream(request, sessions.options, headers)
    with events.cursor(events.last_id) as cursor:
        shared = {} if state is None else state
        session = Session((key,), response, request.remote or "", LogSource(cursor), shared)
        pushing = PushSession(session, response, events, asked, serializer)
        with sessions.tracked(session):
            with contextlib.suppress(ConnectionResetError):
                await response.prepare(request)
            if not response.prepared or request.method == "HEAD":
                session.close()
            serving = asyncio.create_task(sessions.serve(session))
            serving.add_done_callback(lambda _: pushing._end())  # noqa: SLF001 - of this module
            try:
                async with pushing._while_connected():  # noqa: SLF001 - of this module
                    yield pushing
                pushing.close()
                await serving
            except BaseException:
                serving.cancel()
                response.cut()
                await asyncio.wait([serving])
                raise

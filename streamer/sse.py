"""Write one job's log to one client as Server-Sent Events (WHATWG HTML, section 9.2).

aiohttp-sse's `EventSourceResponse` is the response; frames are ready bytes and go out by
`write`, in batches, under a time limit of our own. What its documentation does not say:
its ping is a comment *with* a blank line, which some clients take for an empty message,
and comes whatever the traffic, so it is switched off and the heartbeat is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from streamer.config import StreamsConfig
from streamer.log import JobLog
from streamer.sessions import Session, SessionMap

__all__ = ["EventStream", "follow", "last_event_id"]

HEARTBEAT: Final = b":\n"
"""A comment line without a blank line: the one form that no client takes for a message."""

NEVER_S: Final = 1e7
MAX_ID_DIGITS: Final = 15


class EventStream(EventSourceResponse):
    """An `EventSourceResponse` that no proxy may store or transform."""

    def __init__(self, *, send_timeout: float, headers: Mapping[str, str]) -> None:
        super().__init__(
            headers=dict(headers),
            sep="\n",
            send_timeout=send_timeout,
            ping_interval=NEVER_S,
            allow_all_methods=True,  # a POST may ask for the stream itself
        )
        # The base class sets its own after `headers`; this one stops compressing proxies.
        self.headers["Cache-Control"] = "no-cache, no-transform"


def last_event_id(request: web.Request, log: JobLog) -> int:
    """Return the event to resume after: the header's, else the query's, else 0.

    A reconnecting browser sends the newer header beside the query it began with, so
    the header wins. What is no number of an event of this log asks for all of it.
    """
    text = request.headers.get("Last-Event-ID")
    if text is None:
        text = request.query.get("lastEventId", "")
    # int() takes "+1", "1_0" and other scripts' digits, and refuses 5000 of them.
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS):
        return 0
    number = int(text)
    return number if number <= log.last_id else 0


async def follow(
    request: web.Request,
    log: JobLog,
    *,
    job_id: str,
    after: int,
    sessions: SessionMap,
    settings: StreamsConfig,
    draining: asyncio.Event,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """Send what follows event `after`, then what comes, to the end of the log.

    A client that takes nothing for `write_timeout_s` is dropped and may resume. After the
    terminal event the stream stays open for `grace_s`, for the client to leave first.
    """
    response = EventStream(send_timeout=settings.write_timeout_s, headers=headers)
    if request.version < HttpVersion11:
        response.headers["Connection"] = "close"
        response.force_close()
    if request.transport is None:
        return response  # gone already; prepare() would fail an assertion
    session = Session(job_id, response, request.remote or "", after)
    with sessions.track(session):  # a refusal here is still an answer of its own
        try:
            await response.prepare(request)
            await _send_log(session, log, settings)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.grace_s):
                    await draining.wait()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:
            pass  # the client left
        finally:
            if response.is_connected():
                response.stop_streaming()  # ends the ping task of aiohttp-sse
    return response


async def _send_log(session: Session, log: JobLog, settings: StreamsConfig) -> None:
    """Send everything from the session's position on. Raises TimeoutError, ConnectionResetError."""
    # No blank line after it: alone it would be an empty message to some clients. The spread
    # keeps clients from coming back all at once after a restart.
    pending = b"retry: %d\n" % random.randint(1000, 3000)
    while True:
        data, position = log.read(session.position)
        if pending or data:
            async with asyncio.timeout(settings.write_timeout_s):
                await session.response.write(pending + data)
            session.position = position
            pending = b""
        elif log.done:
            return
        elif not await log.wait(session.position, settings.heartbeat_s):
            pending = HEARTBEAT

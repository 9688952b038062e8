"""Answer a request with an event stream: the response class and what a client may ask for.

aiohttp-sse's `EventSourceResponse` is the response; frames are ready bytes and go out by
`write`. What its documentation does not say: its ping is a comment *with* a blank line, which
some clients take for an empty message, and comes whatever the traffic, so it is switched off
and the heartbeat is ours; and it sets its own headers over those that it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from streamer.eventlog.frames import HEARTBEAT, padding, preamble, retry

__all__ = [
    "ID_PARAMETERS",
    "MAX_SEND_TIMEOUT_S",
    "EventStream",
    "StreamOptions",
    "client_id",
    "id_number",
]

log: Final = logging.getLogger(__name__)

NEVER_S: Final = 1e7
MAX_ID_DIGITS: Final = 16
MAX_SEND_TIMEOUT_S: Final = 86_400.0
"""The kernel is told as well, and counts milliseconds in an int."""

ID_PARAMETERS: Final = ("lastEventId", "last_event_id", "evs_last_event_id")
"""For clients that cannot set the header: ours, and those of polyfills."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How streams are sent. Times in seconds, but for `retry_ms` and `retry_jitter_ms`.

    A silent stream carries a comment every `heartbeat_s`. A client that takes nothing for
    `write_timeout_s` is dropped and may resume. After the last event the stream stays open for
    `grace_s`, for the client to leave first. `retry_ms`, and at random up to `retry_jitter_ms`
    more, is when a client comes back after a lost connection; None sends no such line. With
    `trust_client_ids` a client resumes after the id that it sends, otherwise it begins anew.
    `headers` are added to the response and stand over the built-in ones. ``heartbeat_s=inf`` sends
    no heartbeat; a client that has left is then noticed with the next event only.

    Raises ValueError for a time that cannot be.
    """

    heartbeat_s: float = 30.0
    write_timeout_s: float = 30.0
    grace_s: float = 1.0
    retry_ms: int | None = 1000
    retry_jitter_ms: int = 2000
    trust_client_ids: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.heartbeat_s > 0 and self.write_timeout_s > 0 and self.grace_s >= 0):
            raise ValueError("heartbeat_s and write_timeout_s are above 0, grace_s is not below")
        if self.retry_ms is not None:
            retry(self.retry_ms, self.retry_jitter_ms)


class EventStream(EventSourceResponse):
    """An `EventSourceResponse` that no proxy may store or transform."""

    heartbeat = HEARTBEAT
    lingers = True

    def __init__(
        self,
        request: web.BaseRequest,
        options: StreamOptions,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            sep="\n",
            send_timeout=min(options.write_timeout_s, MAX_SEND_TIMEOUT_S),
            ping_interval=NEVER_S,
            allow_all_methods=True,  # a POST may ask for the stream itself
        )
        self.headers["Cache-Control"] = "no-cache, no-transform"
        # The base class sets its own after what it is given.
        self.headers.update({**options.headers, **(headers or {})})
        if request.version < HttpVersion11:
            # Not chunked: the end of the connection is the only mark of the end.
            self.headers["Connection"] = "close"
            self.force_close()
        self._asked = request.query

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers. Raises ConnectionResetError if the client has left."""
        # The base class fails an assertion then, or cancels the handler.
        if request.transport is None:
            raise ConnectionResetError("the client has left")
        return await super().prepare(request)

    def enable_compression(self, *_: object, **__: object) -> None:
        """Stay uncompressed: a compressor holds events back, and half a stream would be lost."""
        log.warning(
            "%s: a middleware or signal of the application asked to compress an event stream, "
            "which stays as it is; leave text/event-stream out there",
            "the stream" if self._req is None else self._req.path,
        )

    def abort(self) -> None:
        """Cut the connection: a client that does not read would never see it close."""
        if self._req is not None and self._req.transport is not None:
            self._req.transport.abort()

    def cut(self) -> None:
        """Close the connection without the mark of the end, so that the client comes back.

        What is left to do for the request then meets a closed connection: an error page of some
        middleware would otherwise be written into the stream.
        """
        if self._req is not None and self._req.transport is not None:
            self._req.transport.close()

    @property
    def gone(self) -> bool:
        """Whether the client is known to have left."""
        return self._req is None or self._req.transport is None

    @property
    def unsent_bytes(self) -> int:
        """What the client has yet to take of what was written."""
        transport = None if self._req is None else self._req.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def opening(self, options: StreamOptions) -> bytes:
        """Return what is sent before the first frame; none of it is a message."""
        parts = (
            [] if options.retry_ms is None else [retry(options.retry_ms, options.retry_jitter_ms)]
        )
        if "padding" in self._asked:
            parts.append(padding())
        if "evs_preamble" in self._asked:
            parts.append(preamble())
        return b"".join(parts)


def client_id(request: web.BaseRequest, options: StreamOptions) -> str:
    """Return the id that the client sends to resume after, or ``""`` if it sends none.

    Untrusted clients have none. The header wins over the query: a reconnecting browser sends the
    newer header beside the query it began with.
    """
    if not options.trust_client_ids:
        return ""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        found = (request.query[name] for name in ID_PARAMETERS if name in request.query)
        text = next(found, "")
    return text


def id_number(text: str, last_id: int) -> int:
    """Return the event number that an id names; 0, for everything, if there is no such event."""
    # int() takes "+1", "1_0" and other scripts' digits, and refuses 5000 of them.
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS):
        return 0
    number = int(text)
    return number if number <= last_id else 0

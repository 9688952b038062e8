"""Answer a request with an event stream: the response class, and the ids that clients send."""

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
    "StreamedResponse",
    "client_id",
    "id_number",
]

log: Final = logging.getLogger(__name__)

NEVER_S: Final = 1e7
MAX_ID_DIGITS: Final = 16
MAX_SEND_TIMEOUT_S: Final = 86_400.0
"""The timeout is also set in the kernel, which counts milliseconds in an int."""

MOST_NOW: Final = 96 * 1024
"""What is written to an idle connection at once: one read of a program's output, if it is text."""

STATUS_BYTES: Final = 64
"""More than a status line takes."""

ID_PARAMETERS: Final = ("lastEventId", "last_event_id", "evs_last_event_id")
"""Query parameters for clients that cannot set the header: ours, and those of polyfills."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How streams are sent. Times are in seconds, except `retry_ms` and `retry_jitter_ms`.

    An idle stream carries a comment every `heartbeat_s`. A client that is stalled for
    `write_timeout_s` is cut off and may resume. After the last event the stream stays open for
    `grace_s`, so that the client can close it first. A client waits `retry_ms`, plus a random part
    of `retry_jitter_ms`, before it reconnects; None sends no ``retry`` line. With
    `trust_client_ids` a client resumes after the id that it sends, otherwise it starts from the
    beginning. `headers` are added to the response and override the built-in ones. With
    ``heartbeat_s=inf`` there are no heartbeats; a client that has left is noticed only with the
    next event.

    Raises ValueError for an impossible time.
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
            raise ValueError("heartbeat_s and write_timeout_s must be above 0, grace_s at least 0")
        if self.retry_ms is not None:
            retry(self.retry_ms, self.retry_jitter_ms)


class StreamedResponse(web.StreamResponse):
    """What event streams and plain downloads have in common: a client that may leave."""

    _held_bytes = 0
    """The size of the headers while they wait for the first write."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers. Raises ConnectionResetError if the client has left."""
        if request.transport is None:
            raise ConnectionResetError("the client has left")
        writer = await super().prepare(request)
        if not self._send_headers_immediately:
            # With two bytes between name and value, two at the end; the status line is short.
            self._held_bytes = STATUS_BYTES + sum(
                len(name) + len(value.encode()) + 4 for name, value in self.headers.items()
            )
        return writer

    def hold_headers(self) -> None:
        """Send the headers with what is written first, in one packet; `Session.run` writes soon."""
        self._send_headers_immediately = False

    def abort(self) -> None:
        """Reset the connection: a client that does not read would never notice a close."""
        if self._req is not None and self._req.transport is not None:
            self._req.transport.abort()

    @property
    def gone(self) -> bool:
        return self._req is None or self._req.transport is None

    @property
    def unsent_bytes(self) -> int:
        transport = None if self._req is None else self._req.transport
        if transport is None:
            return 0
        if self._held_bytes and self._payload_writer is not None:
            if not self._payload_writer.output_size:
                return self._held_bytes + transport.get_write_buffer_size()
            self._held_bytes = 0
        return transport.get_write_buffer_size()


class EventStream(StreamedResponse, EventSourceResponse):
    """An `EventSourceResponse` that proxies must not store or transform."""

    # What aiohttp-sse does by default and would be wrong here; this class switches all of it off:
    # - It sends a ping at a fixed interval, even while events flow, as a comment with a blank
    #   line, which some clients take for an empty message. Sessions send heartbeats instead. There
    #   is no way to have no task for the ping, so one sleeps for each stream.
    # - It refuses methods other than GET. A POST may ask for the stream of the job it submits.
    # - It overwrites headers that it is given, so ours are set after its own.
    # - If the client has left before the headers, it fails an assertion or cancels the handler.
    #   `StreamedResponse.prepare` checks first.
    # - It raises NotImplementedError if a middleware asks for compression.
    # Its `send` is not used: frames are encoded once, for all clients, and go out by `write`.
    # What is used is its response, and its TCP_USER_TIMEOUT (`send_timeout`) for stalled clients.

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
            allow_all_methods=True,
        )
        self.headers["Cache-Control"] = "no-cache, no-transform"
        self.headers.update({**options.headers, **(headers or {})})
        if request.version < HttpVersion11:
            # HTTP/1.0 has no chunks: the end of the connection is the end of the body.
            self.headers["Connection"] = "close"
            self.force_close()
        self._asked = request.query
        self._writer: AbstractStreamWriter | None = None
        self._in_chunks = False

    def enable_compression(self, *_: object, **__: object) -> None:
        """Do nothing but log: a compressor would delay events, and a cut would lose many."""
        log.warning(
            "%s: a middleware or signal of the application tried to compress an event stream; "
            "it is sent uncompressed. Exclude text/event-stream there",
            "the stream" if self._req is None else self._req.path,
        )

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers. Raises ConnectionResetError if the client has left."""
        self._writer = await super().prepare(request)
        # Of an HTTP/1.0 connection too aiohttp-sse says that it is `chunked`.
        self._in_chunks = self.headers.get("Transfer-Encoding") == "chunked"
        return self._writer

    def write_now(self, data: bytes) -> int | None:
        """Write if the socket took everything so far; return how much it did not take of this.

        None if nothing is written. It makes the chunk itself (RFC 9112, section 7.1): `write` has
        to be awaited, and for a thousand readers that costs more than to send.
        """
        transport = None if self._req is None else self._req.transport
        if (
            transport is None
            or transport.is_closing()
            or self._writer is None
            or not self._in_chunks
            or len(data) > MOST_NOW
            or transport.get_write_buffer_size()
        ):
            return None
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        self._writer.output_size += len(chunk)  # for the access log
        transport.write(chunk)
        return transport.get_write_buffer_size()

    def cut(self) -> None:
        """Close the connection without the final chunk, so that the client reconnects.

        Later writes for this request then fail; otherwise the error page of a middleware would be
        written into the stream.
        """
        if self._req is not None and self._req.transport is not None:
            self._req.transport.close()

    def opening(self, options: StreamOptions) -> bytes:
        """Return the bytes before the first frame: comments and a ``retry`` line."""
        parts = (
            [] if options.retry_ms is None else [retry(options.retry_ms, options.retry_jitter_ms)]
        )
        if "padding" in self._asked:
            parts.append(padding())
        if "evs_preamble" in self._asked:
            parts.append(preamble())
        return b"".join(parts)


def client_id(request: web.BaseRequest, options: StreamOptions) -> str:
    """Return the id after which the client wants to resume, or ``""``.

    ``""`` also if client ids are not trusted. The header wins over the query: a browser that
    reconnects sends a new header and the query of its first request.
    """
    if not options.trust_client_ids:
        return ""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        found = (request.query[name] for name in ID_PARAMETERS if name in request.query)
        text = next(found, "")
    return text


def id_number(text: str, last_id: int) -> int:
    """Return an id's event number; an unknown id gives 0, which replays everything."""
    # int() accepts "+1", "1_0" and digits of other scripts, and raises for 5000 digits.
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS):
        return 0
    number = int(text)
    return number if number <= last_id else 0

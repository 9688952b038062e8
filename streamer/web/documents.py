"""Answer with JSON documents: large ones within the limits for unsent bytes of slow clients.

aiohttp writes a body at once and then waits, without a time limit, until the client has read it. A
job's record may have megabytes of output, and a list as much metadata.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from streamer.jobs.downloads import BodySource
from streamer.sse.bytestream import ByteStream
from streamer.sse.sessionmap import SessionMap

__all__ = ["dump", "json_answer", "large_documents"]

LARGE_BYTES: Final = 64 * 1024
"""A smaller document fits into the connection's buffer."""


_encoder: Final = msgspec.json.Encoder()


def dump(document: object) -> bytes:
    return _encoder.encode(document)


def json_answer(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=dump(document), status=status, headers=headers, content_type="application/json"
    )


def large_documents(sessions: SessionMap) -> Middleware:
    """Return a middleware that sends large bodies within the limits of `sessions` for slow clients.

    They do not count as readers: only their unsent bytes are counted.
    """
    sending = SessionMap(sessions.options, max_sessions=None, outgoing=sessions.outgoing)

    @web.middleware
    async def send_large(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(body, bytes) or len(body) <= LARGE_BYTES or request.method == "HEAD":
            return response
        stream = ByteStream(request, sending.options, response.headers)
        stream.set_status(response.status)
        stream.content_length = len(body)
        source = BodySource(body)
        del response, body  # only the source has a reference now
        await sending.send(request, stream, (), source)
        return stream

    return send_large

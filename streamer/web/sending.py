"""Send what programs have left, as files that a browser never shows as pages of ours."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from aiohttp import hdrs, web

from streamer.errors import Gone
from streamer.sse.bytestream import ByteStream
from streamer.sse.session import Source
from streamer.sse.sessionmap import Full, SessionMap
from streamer.web.problems import limited

__all__ = ["SAFE", "saved_as", "send"]

UNCLEAR: Final = re.compile(r"[^0-9A-Za-z._ -]")
"""What old clients, which do not read ``filename*``, do not get in the name of a file."""

SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Accel-Buffering": "no",
}


async def send(
    readers: SessionMap,
    request: web.Request,
    keys: str | Sequence[str],
    source: Source,
    headers: Mapping[str, str],
    size: int,
    *,
    client: str,
) -> web.StreamResponse:
    """Send `size` bytes; with Content-Range they are a part (206).

    `keys` and `client` are those for whom it counts as a reader. Raises `RateLimited`.
    """
    response = ByteStream(request, readers.options, headers)
    response.set_status(206 if hdrs.CONTENT_RANGE in headers else 200)
    response.content_length = size
    try:
        # With less than its length the client knows that the rest is missing.
        with contextlib.suppress(Gone):
            await readers.send(request, response, keys, source, client=client)
    except Full as full:
        raise limited(full) from None
    return response


def saved_as(name: str, *, inline: bool = False) -> str:
    """Return the header that names a file to save it in, also for old clients (RFC 6266)."""
    last = name.rpartition("/")[2]
    plain = UNCLEAR.sub("_", last)
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(last, safe='')}"

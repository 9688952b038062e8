"""Take bodies that are not held in memory: archives, and files for sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from streamer.config.schema import Config
from streamer.errors import InvalidRequest, TooLarge, quoted
from streamer.web.problems import answer

__all__ = ["arriving", "check_plain", "expected"]


def check_plain(request: web.Request, what: str) -> None:
    """Refuse a compressed body, of which nobody knows the size. Raises `InvalidRequest`."""
    if hdrs.CONTENT_ENCODING in request.headers:
        raise InvalidRequest(
            f"send the {what} as it is, without Content-Encoding", path="Content-Encoding"
        )


async def arriving(request: web.Request, config: Config) -> AsyncIterator[bytes]:
    """Yield what arrives; it must not pause for long, nor arrive for longer than allowed."""
    idle_s, timeout_s = config.server.body_timeout_s, config.projects.upload_timeout_s
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    chunks = aiter(request.content.iter_any())
    while True:
        try:
            async with asyncio.timeout_at(min(loop.time() + idle_s, end)):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            late = f"within {timeout_s:g} s" if loop.time() >= end else "without long pauses"
            raise InvalidRequest(f"the upload did not arrive {late}") from None
        except web.RequestPayloadError:
            # aiohttp would read to its end after the response, and fail with a traceback.
            request.content.feed_eof()
            raise InvalidRequest("the body does not match its Transfer-Encoding") from None
        yield chunk


async def expected(request: web.Request, refusal: TooLarge | None) -> web.StreamResponse | None:
    """Answer the header Expect; what is refused is not sent, where the client waits (curl)."""
    wanted = request.headers[hdrs.EXPECT]
    if wanted.lower() != "100-continue":
        return answer(InvalidRequest(f"unknown Expect: {quoted(wanted)}", path="Expect"))
    if refusal is not None:
        response = answer(refusal)
        response.force_close()
        return response
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The response has not begun with that.
        request.writer.output_size = 0
    return None

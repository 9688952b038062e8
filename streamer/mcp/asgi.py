"""Answer one request of aiohttp by an ASGI application, as the SDK's HTTP transport is one.

aiohttp cancels the handler when the client leaves, so the application is never told: its call is
cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from multidict import CIMultiDict
from starlette.types import ASGIApp, Message

__all__ = ["answered_by"]


async def answered_by(
    app: ASGIApp, request: web.Request, body: bytes, more: Mapping[str, object]
) -> web.StreamResponse:
    """Return the application's answer; `more` goes into the scope of the request."""
    exchange = _Exchange(request, body)
    await app(_scope(request, more), exchange.receive, exchange.send)
    return exchange.answer()


def _scope(request: web.Request, more: Mapping[str, object]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.rel_url.raw_path.encode(),
        "query_string": request.rel_url.raw_query_string.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": None,
        "server": None,
        **more,
    }


class _Exchange:
    """What is received and sent.

    The end of the answer is left to aiohttp: a client that has it sends its next request, which
    must not come while this one is still being handled.
    """

    def __init__(self, request: web.Request, body: bytes) -> None:
        self._request = request
        self._body: bytes | None = body
        self._status = 500
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._stream: web.StreamResponse | None = None
        self._whole = b""

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.Future()  # this call is cancelled when the client leaves

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message.get("headers", ()):
                self._headers.add(name.decode("latin-1"), value.decode("latin-1"))
            return
        body = message.get("body", b"")
        if self._stream is None and not message.get("more_body", False):
            self._whole = body
            return
        if self._stream is None:
            self._stream = web.StreamResponse(status=self._status, headers=self._headers)
            await self._stream.prepare(self._request)
        if body:
            await self._stream.write(body)

    def answer(self) -> web.StreamResponse:
        """Return what is to be sent at last."""
        if self._stream is not None:
            return self._stream
        self._headers.pop("Content-Length", None)
        return web.Response(status=self._status, headers=self._headers, body=self._whole)

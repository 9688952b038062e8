"""Answer one request of aiohttp by an ASGI application, as the SDK's HTTP transport is one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from multidict import CIMultiDict
from starlette.types import ASGIApp, Message

__all__ = ["Exchange"]


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


class Exchange:
    """One request with its body, and its answer; `more` goes into the scope.

    aiohttp cancels the handler when the client leaves. An ASGI application is told instead, and may
    have something to finish, so it runs in a task of its own.

    The end of the answer is left to aiohttp: a client that has it sends its next request, which
    must not come while this one is still being handled.
    """

    def __init__(
        self, app: ASGIApp, request: web.Request, body: bytes, more: Mapping[str, object]
    ) -> None:
        self._request = request
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._status = 500
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._stream: web.StreamResponse | None = None
        self._whole = b""
        self.task = asyncio.ensure_future(app(_scope(request, more), self._receive, self._send))
        """The application at work; it may go on for a while when the client has left."""

    async def answer(self) -> web.StreamResponse:
        """Wait for the application, and return what is to be sent at last."""
        try:
            await asyncio.shield(self.task)
        finally:
            self._left.set()
        if self._stream is not None:
            return self._stream
        self._headers.pop("Content-Length", None)
        return web.Response(status=self._status, headers=self._headers, body=self._whole)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._left.is_set():
            raise ConnectionResetError("the client has left")
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

"""The streamable HTTP transport, as a route of an aiohttp application that guards it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiohttp import web
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from streamer.errors import Busy, TooLarge
from streamer.mcp.asgi import Exchange
from streamer.mcp.server import CALLER
from streamer.mcp.workspaces import Caller

__all__ = ["PATH", "Endpoint"]

log: Final = logging.getLogger(__name__)

PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_BODIES_BYTES: Final = 64 * 1024 * 1024
"""Of all requests that are being answered together."""
MAX_SESSIONS: Final = 500
IDLE_S: Final = 600.0
"""A client of an earlier protocol without a request for so long has to introduce itself again."""


class Endpoint:
    """One address for all clients. `who` returns who sends a request, or raises the refusal."""

    def __init__(self, server: Server[Any], who: Callable[[web.Request], Caller]) -> None:
        self._who = who
        self._manager = StreamableHTTPSessionManager(
            server,
            max_request_body_size=MAX_BODY_BYTES,
            max_sessions=MAX_SESSIONS,
            session_idle_timeout=IDLE_S,
        )
        self._stopping = asyncio.Event()
        self._bodies = 0
        self._answering: set[asyncio.Future[None]] = set()

    def add_to(self, app: web.Application) -> None:
        """Add the route, before the application starts."""
        app.router.add_route("*", PATH, self.handle)
        app.cleanup_ctx.append(self._run)

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        started = asyncio.Event()

        async def running() -> None:
            # In one task: a group of tasks is left where it was entered.
            async with self._manager.run():
                started.set()
                await self._stopping.wait()

        task = asyncio.ensure_future(running())
        starting = asyncio.ensure_future(started.wait())
        await asyncio.wait({task, starting}, return_when=asyncio.FIRST_COMPLETED)
        starting.cancel()
        yield
        self._stopping.set()
        await task
        for answering in self._answering:
            answering.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def stop(self, _: web.Application | None = None) -> None:
        """End what is being answered; streams of clients would stay open for ever."""
        self._stopping.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        caller = self._who(request)
        body = await self._read(request)
        user = AuthenticatedUser(
            # So nobody else can use a session of the protocol whose id became known.
            AccessToken(token="", client_id=caller.name, scopes=[])
        )
        more = {"user": user, CALLER: caller}
        exchange = Exchange(self._manager.handle_request, request, body, more)

        def over(task: asyncio.Future[None]) -> None:
            self._bodies -= len(body)
            self._answering.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.debug("a request was not answered", exc_info=error)

        self._answering.add(exchange.task)
        exchange.task.add_done_callback(over)
        return await exchange.answer()

    async def _read(self, request: web.Request) -> bytes:
        """Return a body that counts in `_bodies`. Raises `TooLarge`, `Busy`."""
        body = bytearray()
        whole = False
        try:
            async for piece in request.content.iter_any():
                self._bodies += len(piece)
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise TooLarge(f"a message has at most {MAX_BODY_BYTES} bytes")
                if self._bodies > MAX_BODIES_BYTES:
                    raise Busy("too much is being received; try again", retry_after_s=1.0)
            whole = True
        finally:
            if not whole:
                self._bodies -= len(body)
        return bytes(body)

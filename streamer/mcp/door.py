"""Serve clients over HTTP by a service elsewhere: only those of this process's own account.

What they ask for is done with the token of whoever has started the command, so nobody else may ask.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from streamer.config.schema import Config, is_loopback
from streamer.errors import ConfigError
from streamer.mcp.http import PATH, Endpoint
from streamer.plugins import empty_manager
from streamer.web.callers.access import Access
from streamer.web.callers.grants import Grants
from streamer.web.callers.origin import check_origin
from streamer.web.problems import problems
from streamer.web.server.connection_limit import ConnectionLimit
from streamer.web.server.listening import bound, local_url, url_of

__all__ = ["serve_guarded"]

MAX_CONNECTIONS: Final = 500
HANDLERS_END_S: Final = 5.0


async def serve_guarded(endpoint: Endpoint, config: Config, said: Callable[[str], None]) -> None:
    """Serve at the address of `config.server` until a signal. Raises `ConfigError`."""
    if not is_loopback(config.server.host):
        raise ConfigError(
            f"--host {config.server.host}: with --url only this account may connect, whose token "
            "is used; for others let the service's own host run streamer mcp --http"
        )
    connections = ConnectionLimit(
        MAX_CONNECTIONS, config.server.head_timeout_s, config.streams.write_timeout_s
    )
    app = web.Application(middlewares=[connections.middleware, problems, _only_own_account()])
    endpoint.add_to(app)
    app.on_shutdown.append(endpoint.stop)
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=HANDLERS_END_S, access_log=None
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, stopping.set)
    servers: list[asyncio.Server] = []
    try:
        await runner.setup()
        assert runner.server is not None
        sockets = bound(config.server)
        factory = connections.factory(runner.server)
        for sock in sockets:
            server = await loop.create_server(factory, sock=sock)
            servers.append(server)
        said(local_url(url_of(sockets[0])).rstrip("/") + PATH)
        await stopping.wait()
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        for number in signals:
            loop.remove_signal_handler(number)


def _only_own_account() -> Middleware:
    # The configuration of a service's own callers is not asked: with tokens or a plugin there
    # would be callers of several kinds, and there is one identity at the service.
    config = Config()
    access = Access(
        config, empty_manager().hook, Grants(_no_grants), lambda _: None, unconfined=True
    )

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        check_origin(request, config)
        access.admit(request)
        return await handler(request)

    return guard


async def _no_grants() -> bytes:
    raise ConfigError("there are no grants here")

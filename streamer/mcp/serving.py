"""Put the MCP server together with a service: one of its own, or one that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from aiohttp import web
from msgspec.structs import replace

import streamer
from streamer.client import Client
from streamer.config.schema import Config, is_loopback
from streamer.errors import ConfigError
from streamer.mcp.door import serve_guarded
from streamer.mcp.http import PATH, Endpoint
from streamer.mcp.server import make_server
from streamer.mcp.stdio import serve_stdio
from streamer.mcp.tools import Tools
from streamer.mcp.workspaces import Caller, Workspaces
from streamer.web.app import ACCESS
from streamer.web.server.process import Alone
from streamer.web.server.serve import serve

__all__ = ["serve_http", "serve_http_remote", "serve_stdio_here", "serve_stdio_remote"]

BEARER: Final = "bearer "
Said = Callable[[str], None]


async def serve_stdio_remote(url: str, token: str | None, fields: dict[str, Any]) -> None:
    """Serve a client over standard streams by the service at `url`, until it leaves or a signal."""
    tools = _tools(lambda: url, fields)
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(serve_stdio(make_server(tools, Caller(token=token))))
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, serving.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        await tools.close()
        for number in signals:
            loop.remove_signal_handler(number)


async def serve_stdio_here(config: Config, fields: dict[str, Any]) -> None:
    """Serve a client over standard streams, with a service in this process that only it can use.

    When the client leaves, or at a signal, all jobs end at once.
    """
    token = secrets.token_urlsafe(32)
    server = replace(config.server, host="127.0.0.1", port=0, workers=1, drain_s=0, public_url="")
    config = replace(config, server=server)
    app = streamer.create_app(config, plugins=[_Only(token)])
    own = _Until()
    failed: list[BaseException] = []

    async def on_ready(address: str) -> None:
        tools = _tools(lambda: address, fields)
        try:
            await serve_stdio(make_server(tools, Caller(token=token)))
        except Exception as error:  # noqa: BLE001 - raised below, once all has ended
            failed.append(error)
        finally:
            own.stop()

    await serve(app, config, on_ready, own)
    for error in failed:
        raise error


async def serve_http(config: Config, fields: dict[str, Any], said: Said) -> None:
    """Serve clients over HTTP, with a service in this process, until a signal.

    `said` is told the address. Raises `ConfigError` where strangers could reach it.
    """
    # Nobody is let in without a token but from this machine, whatever a service there is open to.
    auth = replace(config.auth, anonymous=False)
    config = replace(config, auth=auth, server=replace(config.server, workers=1))
    app = streamer.create_app(config)
    access = app[ACCESS]
    if not is_loopback(config.server.host) and not access.knows_callers:
        raise ConfigError(
            f"--host {config.server.host}: everybody who reaches it could run programs; add a "
            "token (auth.tokens_file, streamer token), or listen on 127.0.0.1"
        )
    at: list[str] = []
    tools = _tools(lambda: at[0], fields)

    def who(request: web.Request) -> Caller:
        tenant = access.require(request, "submit")
        given = request.headers.get("Authorization", "")
        token = given[len(BEARER) :].strip() if given.lower().startswith(BEARER) else None
        return Caller(tenant, token)

    endpoint = Endpoint(make_server(tools, Caller()), who)
    endpoint.add_to(app)
    # Before the handlers are awaited.
    app.on_shutdown.append(endpoint.stop)

    async def on_ready(address: str) -> None:
        at.append(address)
        said(address.rstrip("/") + PATH)

    await serve(app, config, on_ready)


async def serve_http_remote(
    url: str, token: str | None, config: Config, fields: dict[str, Any], said: Said
) -> None:
    """Serve clients of this account over HTTP by the service at `url`, until a signal.

    Raises `ConfigError` where strangers could reach it.
    """
    tools = _tools(lambda: url, fields)
    caller = Caller(token=token)
    try:
        await serve_guarded(Endpoint(make_server(tools, caller), lambda _: caller), config, said)
    finally:
        await tools.close()


def _tools(url: Callable[[], str], fields: dict[str, Any]) -> Tools:
    def connect(caller: Caller) -> AbstractAsyncContextManager[Client]:
        # A model is told at once what is refused for lack of capacity, and decides what to do.
        return Client(url(), token=caller.token, retries=0)

    return Tools(connect, Workspaces(connect, fields))


class _Only:
    """A plugin that lets in who has the token of this process, and nobody else."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    @streamer.hookimpl(tryfirst=True)
    def streamer_authorize(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").encode()
        return hmac.compare_digest(given, self._expected)


class _Until(Alone):
    """A service that is stopped from within."""

    def __init__(self) -> None:
        self.stop: Callable[[], None] = lambda: None

    def join(
        self, app: web.Application, stop: Callable[[], None], hurry: Callable[[], None]
    ) -> None:
        self.stop = stop

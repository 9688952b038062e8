"""Run the standalone service: listen, wait for a signal, shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from streamer.config.schema import Config
from streamer.web.app import ACCESS, LIFETIME
from streamer.web.callers.access import TENANT
from streamer.web.callers.address import AddressOf, client_address
from streamer.web.loggedpath import job_of, logged_path
from streamer.web.server.connection_limit import ConnectionLimit, connections_allowed
from streamer.web.server.listening import BACKLOG, local_url, url_of
from streamer.web.server.process import Alone, Process
from streamer.web.server.unhandled import READ_BYTES

__all__ = ["serve"]

log: Final = logging.getLogger(__name__)

HANDLERS_END_S: Final = 5.0
"""After every log has ended, streams only have to finish their last write."""

Ready = Callable[[str], Awaitable[None]]


async def serve(
    app: web.Application,
    config: Config,
    on_ready: Ready | None = None,
    process: Process | None = None,
) -> None:
    """Serve an application of `create_app` until SIGTERM, SIGINT or SIGHUP, then drain it.

    While draining the streams continue; a second SIGTERM or SIGINT ends the running jobs at once.
    `on_ready` is called with the URL once requests are answered. `process` says what this process
    has to do with others; by default nothing. Raises `ConfigError` if listening on the address
    fails, and what the application's start-up raises.
    """
    process = process or Alone()
    _allow_descriptors()
    lifetime = app[LIFETIME]
    most = connections_allowed(config, config.queue.places)
    connections = ConnectionLimit(
        most,
        config.server.head_timeout_s,
        config.streams.write_timeout_s,
        # As for other shared resources (streamer.config.shares).
        share=(most + 1) // 2 if app[ACCESS].tells_callers_apart else None,
    )
    app.middlewares.insert(0, connections.middleware)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    servers: list[asyncio.Server] = []

    def stop() -> None:
        if stopping.is_set() and process.hurries:
            lifetime.hurry()
        stopping.set()

    # A client that leaves cancels its handler at once: streams notice it only by that. Jobs do
    # not depend on handlers and run on.
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        shutdown_timeout=HANDLERS_END_S,
        access_log=logging.getLogger("streamer.access") if config.logging.access else None,
        access_log_class=_access_log(client_address(config.server.trusted_proxies)),
        keepalive_timeout=75.0,
        read_bufsize=READ_BYTES,
    )
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, **_of_daemons(stopping)}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        process.join(app, stopping.set, lifetime.hurry)
        await runner.setup()
        assert runner.server is not None
        sockets = await process.sockets(app, config.server)
        factory = connections.factory(runner.server)
        for sock in sockets:
            servers.append(await loop.create_server(factory, sock=sock, backlog=process.at_once))
            sock.listen(BACKLOG)  # which that has changed too
        address = url_of(sockets[0])
        await process.ready(lifetime, address, _part(config, app), most)
        app[ACCESS].announce_address(sockets[0].getsockname()[0])
        lifetime.ask_versions()
        following = asyncio.ensure_future(on_ready(local_url(address))) if on_ready else None
        if following is not None:
            following.add_done_callback(_tell)
        await stopping.wait()
        log.info("draining: up to %g s for running jobs", config.server.drain_s)
        await lifetime.drain(config.server.drain_s)
        await process.drained()
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
    finally:
        for server in servers:
            server.close()
        await runner.cleanup()
        await process.leave()
        for number in handlers:
            loop.remove_signal_handler(number)


def _part(config: Config, app: web.Application) -> str:
    """Return which part of a service this process is, and the sandbox of its jobs."""
    role, own = config.server.role, app[LIFETIME].own()
    parts = () if role == "all" else (f"role {role}",)
    return ", ".join((*parts, *(() if own is None else (f"sandbox {own.default}",))))


def _of_daemons(stopping: asyncio.Event) -> dict[signal.Signals, Callable[[], None]]:
    """Return handlers for signals that daemons get and that would kill the process by default.

    Closing a terminal sends SIGHUP, maybe twice, so a second one does not skip the wait; under
    nohup(1) it stays ignored. Tools send the others to reopen a log; ours is standard error. They
    have handlers because jobs would inherit "ignored".
    """
    handlers: dict[signal.Signals, Callable[[], None]] = {}
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        handlers[number] = partial(log.info, "%s has no effect", number.name)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = stopping.set
    return handlers


def _tell(done: asyncio.Future[None]) -> None:
    """Log the exception of `on_ready` when it happens, not at the end."""
    if not done.cancelled() and done.exception():
        log.error("on_ready failed", exc_info=done.exception())


def _allow_descriptors() -> None:
    """Raise the limit of open files as far as allowed: each stream needs one.

    Most systems set 1024, for programs that use select(2); jobs have their own limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # a container may forbid it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _access_log(address_of: AddressOf) -> type[AbstractAccessLogger]:
    class AccessLog(AbstractAccessLogger):
        """One line for each request, with the path only: a query may contain a token."""

        def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
            """Write the line; for a stream when it ends."""
            path = logged_path(request)
            fields: dict[str, object] = {
                "client": address_of(request),
                "method": request.method,
                "path": path,
                "status": response.status,
                "duration_ms": round(time * 1000),
            }
            if TENANT in request:
                fields["tenant"] = request[TENANT]
            if (job_id := response.headers.get("X-Job-Id") or job_of(request)) is not None:
                fields["job_id"] = job_id
            self.logger.info(
                '%s "%s %s" %d %.3fs',
                *(fields["client"], request.method, path, response.status, time),
                extra={"fields": fields},
            )

    return AccessLog

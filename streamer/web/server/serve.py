"""Run the standalone service: listen, wait for a signal, shut down in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from streamer.config.schema import Config
from streamer.errors import ConfigError
from streamer.web.app import ACCESS, LIFETIME, SERVICE
from streamer.web.callers.access import TENANT
from streamer.web.callers.address import AddressOf, client_address
from streamer.web.server.connection_limit import ConnectionLimit, connections_allowed
from streamer.web.server.unhandled import READ_BYTES

__all__ = ["serve"]

log: Final = logging.getLogger(__name__)

HANDLERS_END_S: Final = 5.0
"""After every log has ended, streams only have to finish their last write."""

BACKLOG: Final = 4096
"""Connections that wait until they are accepted; the kernel drops more, and takes no more than
net.core.somaxconn. A client that is dropped tries again after a second."""

Ready = Callable[[str], Awaitable[None]]


async def serve(app: web.Application, config: Config, on_ready: Ready | None = None) -> None:
    """Serve an application of `create_app` until SIGTERM, SIGINT or SIGHUP, then drain it.

    While draining the streams continue; a second SIGTERM or SIGINT ends the running jobs at once.
    `on_ready` is called with the URL once requests are answered. Raises `ConfigError` if listening
    on the address fails, and what the application's start-up raises.
    """
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
    listener: asyncio.Server | None = None

    def stop() -> None:
        if stopping.is_set():
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
        await runner.setup()
        assert runner.server is not None
        try:
            listener = await loop.create_server(
                connections.factory(runner.server),
                config.server.host,
                config.server.port,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.server.host}:{config.server.port}: {_why(error)}"
            ) from error
        host, port = listener.sockets[0].getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        log.info(
            "listens on %s/, sandbox %s, at most %d connections",
            *(address, (await app[SERVICE].capabilities()).default, most),
        )
        app[ACCESS].announce_address(host)
        lifetime.ask_versions()
        # Users of this machine connect to a loopback address, which every wildcard includes.
        here = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        following = asyncio.ensure_future(on_ready(here)) if on_ready else None
        if following is not None:
            following.add_done_callback(_tell)
        await stopping.wait()
        log.info("draining: up to %g s for running jobs", config.server.drain_s)
        await lifetime.drain(config.server.drain_s)
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()
        for number in handlers:
            loop.remove_signal_handler(number)


def _why(error: OSError) -> str:
    """Return why the address cannot be listened on, and the setting to change."""
    if isinstance(error, socket.gaierror):
        return f"{error.strerror}; set server.host or use --host"
    # asyncio's own text repeats the address.
    reason = os.strerror(error.errno) if error.errno else str(error)
    key = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
    return f"{reason}; set server.{key} or use --{key}"


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
            path = request.rel_url.raw_path
            fields: dict[str, object] = {
                "client": address_of(request),
                "method": request.method,
                "path": path,
                "status": response.status,
                "duration_ms": round(time * 1000),
            }
            if TENANT in request:
                fields["tenant"] = request[TENANT]
            if "X-Job-Id" in response.headers:
                fields["job_id"] = response.headers["X-Job-Id"]
            self.logger.info(
                '%s "%s %s" %d %.3fs',
                *(fields["client"], request.method, path, response.status, time),
                extra={"fields": fields},
            )

    return AccessLog

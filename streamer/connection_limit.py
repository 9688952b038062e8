"""Bound how many clients are connected at a time, and how long one may say nothing at first.

A connection costs a descriptor and some memory before there is any request to refuse. aiohttp has
no bound for them, so between its protocol and the transport there is one of ours.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, cast

from aiohttp import web

from streamer import wire
from streamer.config import Config
from streamer.errors import Busy, ConfigError
from streamer.parameters import Handler

__all__ = ["ConnectionLimit", "connections_allowed"]

log: Final = logging.getLogger(__name__)

KEPT: Final = 256
"""Descriptors for what is no connection and no job: libraries, logs, the state folder."""
KEPT_FOR_A_JOB: Final = 32
KEPT_FOR_A_PROXY: Final = 96
"""More for a job that reaches hosts of an allow-list: 32 connections, and as many behind them."""
LEAST: Final = 16
IDLE_S: Final = 1.0
"""Its request, or the answer, may be on the way; a connection is idle after so long without one."""


def connections_allowed(config: Config, concurrency: int) -> int:
    """Return how many connections there may be, so that descriptors are left for the jobs.

    Raises `ConfigError` when hardly any would be.
    """
    job = KEPT_FOR_A_JOB
    if config.sandbox.network == "allow-list":
        job += KEPT_FOR_A_PROXY
    kept = KEPT + job * concurrency
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return config.server.max_connections
    if limit - kept < LEAST:
        raise ConfigError(
            f"{limit} files may be open, and {concurrency} jobs at a time need {kept}; raise the "
            "limit (ulimit -n, LimitNOFILE= of systemd) or lower queue.concurrency"
        )
    return min(config.server.max_connections, limit - kept)


class ConnectionLimit:
    """Makes the protocols of a server and counts them.

    Beyond `most` the connection that has been without a request for longest makes room; where all
    are busy the new one is told to come back. One whose first request has no whole head after
    `head_s` is cut.
    """

    def __init__(self, most: int, head_s: float) -> None:
        self._most = most
        self._head_s = head_s
        self._open: dict[asyncio.Transport, _Connection] = {}
        self._idle: OrderedDict[asyncio.Transport, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def factory(self, server: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of a new connection around one of `server`."""
        return lambda: _Connection(self, server())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note which connections have a request."""
        transport = request.transport
        connection = None if transport is None else self._open.get(transport)
        if transport is None or connection is None:
            return await handler(request)
        connection.head_arrived()
        self._idle.pop(transport, None)
        try:
            return await handler(request)
        finally:
            if transport in self._open:
                self._idle[transport] = time.monotonic()

    def admit(self, connection: _Connection, transport: asyncio.Transport) -> bool:
        """Take a connection in; False if there is no room for it."""
        if len(self._open) >= self._most and not self._make_room():
            return False
        self._open[transport] = connection
        self._idle[transport] = time.monotonic()  # until it says something
        loop = asyncio.get_running_loop()
        connection.timer = loop.call_later(self._head_s, transport.abort)
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        """Let go of a connection that is lost."""
        self._open.pop(transport, None)
        self._idle.pop(transport, None)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest, if there is one."""
        until = time.monotonic() - IDLE_S
        for transport, since in self._idle.items():
            if since > until:
                break
            if transport.get_write_buffer_size() == 0:
                self.forget(transport)
                transport.close()
                return True
        return False


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to the protocol that serves it."""

    def __init__(self, connections: ConnectionLimit, served: asyncio.Protocol) -> None:
        self._connections = connections
        self._served: asyncio.Protocol | None = served
        self._transport: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None

    def head_arrived(self) -> None:
        """Give it all the time of an open connection: it has sent a request."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)  # uvloop's are not of that class
        if self._served is None or not self._connections.admit(self, made):
            self._served = None
            made.write(FULL)
            made.close()
            return
        self._transport = made
        self._served.connection_made(made)

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_arrived()
        if self._served is not None and self._transport is not None:
            self._connections.forget(self._transport)
            self._served.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._served is not None:
            self._served.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._served is None else self._served.eof_received()

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()


def _full() -> bytes:
    busy = Busy(
        "too many clients are connected (server.max_connections): try again later",
        code="rate_limited",
    )
    body = wire.dump(wire.problem(busy))
    head = (
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\n"
        f"Retry-After: 5\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


FULL: Final = _full()

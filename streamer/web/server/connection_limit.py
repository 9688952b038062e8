"""Limit the number of connections, what they send, and how long they may be idle.

A connection needs a descriptor and some memory before there is a request to refuse. aiohttp does
not limit connections, so there is a protocol of ours between its protocol and the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, cast

from aiohttp import web

from streamer.config.schema import Config
from streamer.errors import CallerError, CapacityError, ConfigError, RateLimited
from streamer.sse.response import MAX_SEND_TIMEOUT_S
from streamer.web.callers.access import CLAIM
from streamer.web.documents import dump
from streamer.web.parameters import Handler
from streamer.web.problems import TITLES, answer, leave_packed, problem
from streamer.web.server.unhandled import READ_BYTES, Heads, Unhandled

__all__ = ["ConnectionLimit", "connections_allowed"]

log: Final = logging.getLogger(__name__)

KEPT: Final = 256
"""Descriptors for libraries, logs and the state folder."""
KEPT_FOR_A_JOB: Final = 32
KEPT_FOR_A_PROXY: Final = 96
"""More for a job with an allow-list of hosts: 32 connections on each side of its proxy."""
LEAST: Final = 16
IDLE_S: Final = 1.0
"""A connection counts as idle after this long without a request."""


def connections_allowed(config: Config, concurrency: int) -> int:
    """Return how many connections are allowed, so that descriptors are left for the jobs.

    Raises `ConfigError` if fewer than `LEAST` are left.
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

    Beyond `most` the connection that has been idle for longest is closed; if none is idle, the new
    one is refused. A connection is cut off if the head of its first request is not complete after
    `head_s`, or if its client is stalled for `write_s`. With a `share` a tenant has at most that
    many requests in progress.
    """

    def __init__(
        self, most: int, head_s: float, write_s: float, *, share: int | None = None
    ) -> None:
        self._most = most
        self._share = share
        self._of: Counter[str] = Counter()
        """The number of connections with a request, by tenant."""
        self._head_s = head_s
        self._write_ms = int(min(write_s, MAX_SEND_TIMEOUT_S) * 1000)
        self.heads = Heads(most)
        self.buffer = memoryview(bytearray(READ_BYTES))
        """The buffer that all connections read into; each passes on its bytes at once."""
        self._open: dict[asyncio.Transport, _Connection] = {}
        self._idle: OrderedDict[asyncio.Transport, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def factory(self, server: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.BaseProtocol]:
        return lambda: _Connection(self, server())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        connection = None if transport is None else self._open.get(transport)
        if transport is None or connection is None:
            return await handler(request)
        connection.head_arrived()
        self._idle.pop(transport, None)
        claimed: list[str] = []

        def claim(tenant: str) -> None:
            """Count the connection for a tenant; calling it again has no effect."""
            if not claimed:
                self._check_share(tenant)
                claimed.append(tenant)
                self._of[tenant] += 1

        request[CLAIM] = claim
        try:
            refusal = connection.unhandled.begin(request)
            response = answer(refusal) if refusal else await handler(request)
            if connection.unhandled.end() or refusal:
                response.force_close()
            leave_packed(request, response)
            return response
        finally:
            connection.unhandled.end()
            for tenant in claimed:
                self._of[tenant] -= 1
                if not self._of[tenant]:
                    del self._of[tenant]
            if transport in self._open:
                self._idle[transport] = time.monotonic()

    def admit(self, connection: _Connection, transport: asyncio.Transport) -> bool:
        """Add a connection; False if there is no room for it."""
        if len(self._open) >= self._most and not self._make_room():
            return False
        self._open[transport] = connection
        self._idle[transport] = time.monotonic()  # until it sends something
        _end_when_stalled(transport, self._write_ms)
        loop = asyncio.get_running_loop()
        connection.timer = loop.call_later(self._head_s, transport.abort)
        return True

    def forget(self, transport: asyncio.Transport) -> None:
        self._open.pop(transport, None)
        self._idle.pop(transport, None)

    def _check_share(self, tenant: str) -> None:
        if self._share is not None and self._of[tenant] >= self._share:
            raise RateLimited(
                f"you have {self._share} requests in progress, which is the most: try again later",
                retry_after_s=5.0,
            )

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


class _Connection(asyncio.BufferedProtocol):
    """One connection: passes everything on to the protocol that serves it."""

    def __init__(self, connections: ConnectionLimit, served: asyncio.Protocol) -> None:
        self._connections = connections
        self._served: asyncio.Protocol | None = served
        self._transport: asyncio.Transport | None = None
        self._refused = False
        self.unhandled = Unhandled(connections.heads)
        self.timer: asyncio.TimerHandle | None = None

    def head_arrived(self) -> None:
        """End the time limit for the first head."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast("asyncio.Transport", transport)  # those of uvloop do not derive from that class
        if self._served is None or not self._connections.admit(self, made):
            self._served = None
            made.write(FULL)
            made.close()
            return
        self._transport = made
        self._served.connection_made(made)

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_arrived()
        self.unhandled.forget()
        if self._served is not None and self._transport is not None:
            self._connections.forget(self._transport)
            self._served.connection_lost(exc)

    def get_buffer(self, _: int) -> memoryview:
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._served is None or self._transport is None or self._refused:
            return
        refusal = self.unhandled.arrived(nbytes)
        if refusal is None:
            self._served.data_received(bytes(self._connections.buffer[:nbytes]))
            return
        self._refused = True
        self._transport.write(_raw(refusal))
        self._transport.close()

    def eof_received(self) -> bool | None:
        return None if self._served is None else self._served.eof_received()

    def pause_writing(self) -> None:
        if self._served is not None:
            self._served.pause_writing()

    def resume_writing(self) -> None:
        if self._served is not None:
            self._served.resume_writing()


def _end_when_stalled(transport: asyncio.Transport, after_ms: int) -> None:
    """Have the kernel reset a stalled connection, even if it is closed already (tcp(7))."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # the client has left
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, after_ms)


def _raw(error: CallerError | CapacityError) -> bytes:
    """Return the bytes of a response for which aiohttp has no request yet."""
    body = dump(problem(error))
    retry = "Retry-After: 5\r\n" if isinstance(error, CapacityError) else ""
    head = (
        f"HTTP/1.1 {error.status} {TITLES[error.status]}\r\n"
        "Content-Type: application/problem+json\r\n"
        f"{retry}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


FULL: Final = _raw(
    RateLimited("too many clients are connected (server.max_connections): try again later")
)

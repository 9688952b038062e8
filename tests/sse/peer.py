"""A server on a real socket, and a client that sees the bytes as they are sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

from aiohttp import web

from streamer.sse import EventParser, SessionMap, StreamOptions

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Event = tuple[str, str, str]

QUICK = StreamOptions(grace_s=0, retry_ms=None)
"""No grace period and no ``retry`` line: a stream is only its events."""


def quick_map(**options: Any) -> SessionMap:
    return SessionMap(StreamOptions(**{"grace_s": 0, "retry_ms": None, **options}))


@asynccontextmanager
async def serving(handler: Handler, *, cancelling: bool = False) -> AsyncIterator[int]:
    """Serve a handler at / and return the port."""
    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with serving_app(app, cancelling=cancelling) as port:
        yield port


@asynccontextmanager
async def serving_app(
    app: web.Application, *, cancelling: bool = False, shutdown_s: float = 0.01
) -> AsyncIterator[int]:
    """Serve an application as `web.run_app` does, which tells no handler that its client left.

    What a test leaves open at its end is cancelled then.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=cancelling, shutdown_timeout=shutdown_s
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Peer:
    """A client with one request; `chunks` are those of the body so far."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended = False
        self._parser = EventParser()
        self._events: list[Event] = []

    async def head(self) -> None:
        status, *fields = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(status.split()[1])
        pairs = (field.split(": ", 1) for field in fields if field)
        self.headers = {name.lower(): value for name, value in pairs}

    async def chunk(self) -> bytes:
        """Return the next chunk; the empty one is the end. Raises IncompleteReadError if cut."""
        size = await self.reader.readuntil(b"\r\n")
        data = await self.reader.readexactly(int(size, 16))
        assert await self.reader.readexactly(2) == b"\r\n"
        self.chunks.append(data)
        self.ended = not data
        return data

    async def events(self, count: int = 1) -> list[Event]:
        """Return the next events."""
        while len(self._events) < count:
            data = await self.chunk()
            assert data, f"the stream ended after {self._events}"
            self._events += self._parser.feed(data)
        found, self._events = self._events[:count], self._events[count:]
        return found

    async def rest(self) -> list[Event]:
        """Return the events to the end of the stream."""
        while not self.ended:
            self._events += self._parser.feed(await self.chunk())
        found, self._events = self._events, []
        return found

    async def until(self, text: bytes) -> None:
        """Read until a text has arrived."""
        while text not in b"".join(self.chunks):
            assert await self.chunk(), f"the stream ended without {text!r}"

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def leave(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


async def dial(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    version: str = "1.1",
    headers: Mapping[str, str] | None = None,
    receive_bytes: int | None = None,
) -> Peer:
    """Send a request; a client with a small receive buffer stalls soon."""
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    limit = 2**20 if receive_bytes is None else 1024
    peer = Peer(*await asyncio.open_connection(sock=sock, limit=limit))
    lines = [f"{method} {target} HTTP/{version}", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    peer.writer.write("\r\n".join([*lines, "", ""]).encode())
    return peer


class Dialer:
    """Opens peers and closes them at the end of its block."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def __call__(self, target: str = "/", **request: Any) -> Peer:
        peer = await dial(self.port, target, **request)
        self._stack.callback(peer.writer.close)
        await peer.head()
        return peer


async def settle(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)

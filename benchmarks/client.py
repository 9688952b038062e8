"""A small HTTP client on protocols: so cheap for each event that it is not what is measured."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

__all__ = ["Address", "Client", "Stream", "abort"]

Address = tuple[str, int]
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

OnBytes = Callable[[bytes, float], None]
"""Called with bytes and the time at which they came, in seconds of CLOCK_MONOTONIC."""
OnEvent = Callable[[bytes, bytes, float], None]
"""Called with an event's name, its data and the time at which it came."""


def abort(transport: asyncio.Transport | None) -> None:
    """Close with a reset, so that thousands of connections leave no TIME_WAIT behind."""
    if transport is not None:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()


class Chunks:
    """Take the framing of the chunked transfer coding off a body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        at, found = 0, []
        while at < len(data):
            if self._left > 2:
                part = data[at : at + self._left - 2]
                found.append(part)
                at += len(part)
                self._left -= len(part)
            elif self._left:  # the line break behind the chunk
                skipped = min(self._left, len(data) - at)
                at += skipped
                self._left -= skipped
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    break
                self._left = int(data[at:end].partition(b";")[0], 16) + 2
                at = end + 2
        self._rest = data[at:]
        return b"".join(found)


class Stream(asyncio.Protocol):
    """One event stream. `on_bytes` gets the body with its framing, `on_event` its events."""

    def __init__(self, *, on_bytes: OnBytes | None = None, on_event: OnEvent | None = None) -> None:
        self.transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_bytes, self._on_event = on_bytes, on_event
        self._chunks = Chunks()
        self._rest = b""
        self._in_head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed before the answer"))
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        now = monotonic()
        if self._in_head:
            head, found, data = (self._rest + data).partition(b"\r\n\r\n")
            if not found:
                self._rest = head
                return
            self._in_head, self._rest = False, b""
            if b" 200 " not in head[:20] or b"chunked" not in head.lower():
                self.opened.set_exception(ConnectionError(head.decode(errors="replace")))
                return
            if not self.opened.done():
                self.opened.set_result(None)
        if self._on_bytes is not None:
            self._on_bytes(data, now)
        if self._on_event is not None:
            self._split(self._on_event, self._chunks.feed(data), now)

    def _split(self, on_event: OnEvent, text: bytes, now: float) -> None:
        *blocks, self._rest = (self._rest + text).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            fields = dict[bytes, bytes]()
            for line in block.split(b"\n"):
                name, _, value = line.partition(b":")
                fields[name] = value.removeprefix(b" ")
            if b"data" in fields:
                on_event(fields.get(b"event", b""), fields[b"data"], now)

    def close(self) -> None:
        abort(self.transport)


class _Request(asyncio.Protocol):
    """A connection that is kept for one request after another."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[bytes] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self.answer is None or self.answer.done():
            return
        lines = head.lower().split(b"\r\n")
        sizes = [line.split(b":")[1] for line in lines if line.startswith(b"content-length:")]
        if len(body) < int(sizes[0]):
            return
        self._buffer = b""
        if b" 202 " in head[:20]:
            self.answer.set_result(body)
        else:
            self.answer.set_exception(ConnectionError(self._buffer.decode() + body.decode()))

    async def send(self, request: bytes) -> bytes:
        assert self.transport is not None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer


class Client:
    """Submit jobs to a server and follow them."""

    def __init__(self, address: Address, token: str = "") -> None:
        self.address = address
        self._headers = f"Host: {address[0]}:{address[1]}\r\n"
        if token:
            self._headers += f"Authorization: Bearer {token}\r\n"
        self._free: list[_Request] = []

    async def submit(self, job: dict[str, Any]) -> str:
        """Submit a job and return its id."""
        body = json.dumps(job).encode()
        head = (
            f"POST /api/execute HTTP/1.1\r\n{self._headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        while self._free:
            connection = self._free.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                break
        else:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Request, *self.address)
        answer = await connection.send(head.encode() + body)
        self._free.append(connection)
        return str(json.loads(answer)["jobId"])

    def stream_request(self, job_id: str) -> bytes:
        """Return the bytes that ask for a job's event stream."""
        return (
            f"GET /api/stream/{job_id} HTTP/1.1\r\n{self._headers}Accept: text/event-stream\r\n\r\n"
        ).encode()

    async def follow(self, job_id: str, stream: Stream, *, receive_buffer: int = 0) -> Stream:
        """Open a job's event stream; does not wait for the answer."""
        loop = asyncio.get_running_loop()
        with_buffer = socket.socket()
        with_buffer.setblocking(False)
        if receive_buffer:
            with_buffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await loop.sock_connect(with_buffer, self.address)
        with_buffer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport, _ = await loop.create_connection(lambda: stream, sock=with_buffer)
        transport.write(self.stream_request(job_id))
        return stream

    def close(self) -> None:
        for connection in self._free:
            abort(connection.transport)

"""A proxy in front of the service that cuts connections where a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

__all__ = ["Asked", "Cutter", "cutting"]

EVENT_END = b"\n\n"
HEAD_END = b"\r\n\r\n"
REFUSAL = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """A received request; for a stream with the event after which it should continue."""

    method: str
    target: str
    last_event_id: str | None


class Cutter:
    """Passes requests on, each over a connection of its own, and keeps what was asked.

    `events` is how many events a connection lets through before it is cut, and `surplus` how
    many bytes of the next one; None is all. `refused` are the numbers, from 1, of the requests
    that get a 502. Only streams are cut and refused. `retry:` is made short, so that clients
    come back at once.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self.port = 0
        self.asked: list[Asked] = []
        self.events: int | None = None
        self.surplus: Callable[[], int] = lambda: 0
        self.refused: frozenset[int] = frozenset()

    @property
    def streams(self) -> list[Asked]:
        """The requests for streams."""
        return [asked for asked in self.asked if "/api/stream/" in asked.target]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def until_streams(self, count: int) -> None:
        """Wait until this many streams have been requested."""
        async with self._changed, asyncio.timeout(30):
            await self._changed.wait_for(lambda: len(self.streams) >= count)

    def cut(self) -> None:
        """End every open connection, in the middle of whatever it is."""
        for writer in self._open:
            writer.transport.abort()

    async def up(self) -> None:
        """Listen, at the port of the last time if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections and end those that are open, as a service that was stopped."""
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._pass_on(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(HEAD_END)
        # One request a connection, so that each is seen, and can be cut by itself.
        head = re.sub(rb"(?im)^connection:.*\r\n", b"", head)
        head = head.replace(HEAD_END, b"\r\nConnection: close" + HEAD_END)
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        resuming = re.search(rb"(?im)^last-event-id: *(.*?)\r$", head)
        asked = Asked(method, target, resuming[1].decode() if resuming else None)
        async with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        is_stream = "/api/stream/" in target
        if is_stream and len(self.streams) in self.refused:
            writer.write(REFUSAL)
            return
        far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        async with AsyncExitStack() as stack:
            stack.callback(far_writer.close)
            far_writer.write(head)
            upwards = asyncio.create_task(_copy(reader, far_writer))
            stack.callback(upwards.cancel)
            cutting = is_stream and self.events is not None
            budget = (self.events, self.surplus()) if cutting else None
            await self._answer(far_reader, writer, budget)

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        budget: tuple[int | None, int] | None,
    ) -> None:
        head = await reader.readuntil(HEAD_END)
        writer.write(head)
        seen = b""
        sent = 0
        while data := await reader.read(65536):
            seen += re.sub(rb"^retry: \d{4}\n", b"retry: 0010\n", data, flags=re.MULTILINE)
            end = len(seen) if budget is None else _end_of(seen, *budget)
            writer.write(seen[sent : min(end, len(seen))])
            await writer.drain()
            sent = min(end, len(seen))
            if end < len(seen):
                return


def _end_of(seen: bytes, events: int | None, surplus: int) -> int:
    """Return where to cut, which may be beyond what was seen yet."""
    at = 0
    for _ in range(events or 0):
        found = seen.find(EVENT_END, at)
        if found < 0:
            return len(seen) + surplus + 1
        at = found + len(EVENT_END)
    return at + surplus


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        # The client has left, and the service must notice.
        writer.close()


@asynccontextmanager
async def cutting(host: str, port: int) -> AsyncIterator[Cutter]:
    """Start a cutter in front of a service."""
    cutter = Cutter((host, port))
    await cutter.up()
    try:
        yield cutter
    finally:
        await cutter.down()

"""A connection between a Redis engine and its server that can be interfered with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class Proxy:
    """Passes on all bytes. `socket` is where the engine connects."""

    def __init__(self, server: Path, socket: Path) -> None:
        self.socket = socket
        self.lose_answers = False
        """Break a connection instead of passing on an answer."""
        self.refusal = b""
        """What operations are answered with, in place of the server's answer, if it is not empty."""
        self.server = server
        self._writers: set[asyncio.StreamWriter] = set()
        self._here: set[asyncio.StreamWriter] = set()
        """Those that lead to the engine."""
        self._subscribed: set[asyncio.StreamWriter] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._called: set[asyncio.StreamWriter] = set()
        """Those on which an operation was called."""
        self.connections = 0

    def deafen(self) -> None:
        """Let the present subscriptions hear nothing more, though their connections stay open."""
        self._deaf |= self._subscribed

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def say(self, answer: bytes) -> None:
        """Send to the engine, on all connections, what it has not asked for."""
        for writer in self._here:
            writer.write(answer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there_reader, there = await asyncio.open_unix_connection(self.server)
        self._writers |= {writer, there}
        self._here.add(writer)
        try:
            passing = (self._ask(reader, writer, there), self._answer(there_reader, writer))
            tasks = {asyncio.create_task(one) for one in passing}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._writers -= {writer, there}
            self._here.discard(writer)
            for one in (writer, there):
                one.close()
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _ask(
        self, reader: asyncio.StreamReader, here: asyncio.StreamWriter, there: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if b"SSUBSCRIBE" in data:
                self._subscribed.add(here)
            if b"FCALL" in data:
                self._called.add(here)
            there.write(data)
            await there.drain()

    async def _answer(self, reader: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if self.lose_answers and here not in self._subscribed:
                return
            if self.refusal and here in self._called:
                here.write(self.refusal)
            elif here not in self._deaf:
                here.write(data)
                await here.drain()


@asynccontextmanager
async def proxied(server: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(server, server.with_suffix(".proxy"))
    listening = await asyncio.start_unix_server(proxy.serve, proxy.socket)
    try:
        yield proxy
    finally:
        listening.close()
        proxy.cut()
        proxy.socket.unlink(missing_ok=True)

"""Serve one client over standard input and output.

The SDK's own transport reads standard input in a thread, which nothing can interrupt: Ctrl-C would
wait for the next message. These streams are the event loop's, and bound the length of a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from streamer.errors import StreamerError

__all__ = ["serve_stdio"]

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024


async def serve_stdio(server: Server[Any]) -> None:
    """Serve until the client closes standard input. Raises `StreamerError`."""
    async with (
        _streams() as (lines, writer),
        stdio_server(
            # The SDK only iterates over the one, and writes to and flushes the other.
            stdin=cast("anyio.AsyncFile[str]", _Lines(lines)),
            stdout=cast("anyio.AsyncFile[str]", _Out(writer)),
        ) as (received, sent),
    ):
        await server.run(received, sent, server.create_initialization_options())


@asynccontextmanager
async def _streams() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield the streams of the client, and keep all else in this process away from them."""
    loop = asyncio.get_running_loop()
    source, target = _taken(0, os.O_RDONLY), _taken(1, os.O_WRONLY)
    try:
        reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES)
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", buffering=0)
        )
        protocol = asyncio.streams.FlowControlMixin()
        writing, _ = await loop.connect_write_pipe(
            lambda: protocol, os.fdopen(target, "wb", buffering=0)
        )
    except ValueError:
        raise StreamerError(
            "an MCP client talks over pipes: standard input and output must not be files"
        ) from None
    try:
        yield reader, asyncio.StreamWriter(writing, protocol, None, loop)
    finally:
        reading.close()
        writing.close()


def _taken(number: int, mode: int) -> int:
    """Return a copy of a standard descriptor, which leads nowhere from now on.

    What any library prints then goes to standard error, and not between the messages.
    """
    own = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3)
    if mode == os.O_WRONLY:
        os.dup2(2, number)
    else:
        nothing = os.open(os.devnull, mode)
        os.dup2(nothing, number)
        os.close(nothing)
    return own


class _Lines:
    """Standard input as the lines that the SDK reads."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        try:
            line = await self._reader.readline()
        except ValueError:
            raise StreamerError(
                f"a message has more than {MAX_MESSAGE_BYTES} bytes: write large files in parts"
            ) from None
        if not line:
            raise StopAsyncIteration
        return line.decode("utf-8", "replace")


class _Out:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, text: str) -> None:
        self._writer.write(text.encode())

    async def flush(self) -> None:
        # A client that has gone is noticed by the end of its messages.
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

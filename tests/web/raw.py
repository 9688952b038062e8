"""HTTP by hand, where a client library would hide what was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support import AnyClient

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(client: AnyClient) -> AsyncIterator[Streams]:
    """Open a separate connection to the service of a client."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        yield reader, writer
    finally:
        writer.close()


@dataclass(frozen=True)
class Answer:
    """A response as far as its header; names in lower case."""

    status: int
    headers: Mapping[str, str]


async def ask(
    streams: Streams, target: str, *, version: str = "1.1", headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a GET and read the header of its answer."""
    reader, writer = streams
    lines = [f"GET {target} HTTP/{version}", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *fields = head.rstrip().split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs})


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a chunked body."""
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()

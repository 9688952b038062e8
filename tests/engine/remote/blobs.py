"""Blobs behind the connection: both sides."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from streamer.engine.blobs import Blob, BlobFacts, Blobs, BlobWriter

from .wire import Wire

PIECE = 64 * 1024


class BlobServer:
    """Each coroutine is one remote call."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._open: dict[str, tuple[AsyncExitStack, BlobWriter]] = {}
        self._ended: set[str] = set()
        """A caller may give up before it is answered."""

    async def create(
        self, token: str, tenant: str, most: int, kind: str, keep_s: float | None
    ) -> None:
        async with AsyncExitStack() as stack:
            writer = await stack.enter_async_context(
                self._blobs.create(tenant, most, kind=kind, keep_s=keep_s)
            )
            if token not in self._ended:
                self._open[token] = (stack.pop_all(), writer)

    async def write(self, token: str, data: bytes) -> None:
        await self._open[token][1].write(data)

    async def commit(self, token: str) -> Blob:
        return await self._open[token][1].commit()

    async def end(self, token: str) -> None:
        self._ended.add(token)
        if token in self._open:
            stack, _ = self._open.pop(token)
            await stack.aclose()

    async def read(self, blob_id: str, offset: int) -> bytes:
        async with self._blobs.open(blob_id) as fd:
            return os.pread(fd, PIECE, offset)

    async def find(self, blob_id: str) -> BlobFacts | None:
        return await self._blobs.find(blob_id)

    async def delete(self, blob_id: str) -> None:
        await self._blobs.delete(blob_id)

    async def make_evictable(self, blob_id: str) -> None:
        await self._blobs.make_evictable(blob_id)

    async def used_bytes(self) -> int:
        return await self._blobs.used_bytes()

    async def used_by(self, tenant: str) -> int:
        return await self._blobs.used_by(tenant)


class _RemoteWriter:
    def __init__(self, server: BlobServer, wire: Wire, token: str) -> None:
        self._server = server
        self._wire = wire
        self._token = token

    async def write(self, data: bytes) -> None:
        await self._wire.call(self._server.write, self._token, data)

    async def commit(self) -> Blob:
        return await self._wire.call(self._server.commit, self._token)


class RemoteBlobs:
    """See `streamer.engine.blobs.Blobs`; a blob is fetched into a file before it is read."""

    def __init__(self, server: BlobServer, wire: Wire) -> None:
        self._server = server
        self._wire = wire

    @asynccontextmanager
    async def create(
        self, tenant: str, most_bytes: int, *, kind: str = "", keep_s: float | None = None
    ) -> AsyncIterator[BlobWriter]:
        token = secrets.token_hex(8)
        try:
            await self._wire.call(self._server.create, token, tenant, most_bytes, kind, keep_s)
            yield _RemoteWriter(self._server, self._wire, token)
        finally:
            await self._wire.call(self._server.end, token)

    @asynccontextmanager
    async def open(self, blob_id: str, *, part: range | None = None) -> AsyncIterator[int]:
        with tempfile.NamedTemporaryFile() as file:
            while piece := await self._wire.call(self._server.read, blob_id, file.tell()):
                file.write(piece)
            file.flush()
            fd = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)

    async def find(self, blob_id: str) -> BlobFacts | None:
        return await self._wire.call(self._server.find, blob_id)

    async def delete(self, blob_id: str) -> None:
        await self._wire.call(self._server.delete, blob_id)

    async def make_evictable(self, blob_id: str) -> None:
        await self._wire.call(self._server.make_evictable, blob_id)

    async def used_bytes(self) -> int:
        return await self._wire.call(self._server.used_bytes)

    async def used_by(self, tenant: str) -> int:
        return await self._wire.call(self._server.used_by, tenant)

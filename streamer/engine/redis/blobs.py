"""Blobs in the server: records, and bytes in pieces, unless a store has these.

A reader first fetches bytes into a file of its own, but for those that are in a shared folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from streamer.engine.blobs import Blob, BlobFacts
from streamer.engine.limits import BlobCounts, BlobLimits
from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.sweep import Sweep
from streamer.engine.redis.wire import tenant_hash, tenant_name, tenant_of
from streamer.engine.stores.fetched import new_file, reopened, write_at
from streamer.engine.stores.store import Store, StoreWriter
from streamer.errors import EngineUnavailable, NotFound, TooLarge

__all__ = ["RedisBlobs"]

log: Final = logging.getLogger(__name__)

PIECE_BYTES: Final = 64 * 1024
PIECES: Final = 16
"""How many are fetched at a time."""


class RedisBlobs:
    """See `streamer.engine.blobs.Blobs`. The bytes are in the `store`, if there is one."""

    def __init__(self, scripts: Scripts, limits: BlobLimits, store: Store | None = None) -> None:
        self._scripts = scripts
        self._limits = limits
        self._store = store
        self._sweep = None if store is None else Sweep(store, scripts)
        self._folder: Path | None = None

    async def start(self, folder: Path) -> None:
        """Keep what is read in a folder of this process. Raises `ServiceError`."""
        self._folder = folder
        if self._sweep is not None:
            await self._sweep.start()
        elif await self._scripts.call("blob_space", ""):
            log.warning("engine.blobs_url is not set, and other services keep files in a store")

    def begun_anew(self) -> None:
        """Take note that the server has lost what it had."""
        if self._sweep is not None:
            self._sweep.begun_anew()

    async def close(self) -> None:
        if self._sweep is not None:
            await self._sweep.close()

    @asynccontextmanager
    async def create(
        self, tenant: str, most_bytes: int, *, kind: str = "", keep_s: float | None = None
    ) -> AsyncIterator[_Writer]:
        blob_id = secrets.token_hex(16)
        out = None if self._store is None else self._store.writer(blob_id)
        writer = _Writer(blob_id, self._scripts, self._limits, tenant, most_bytes, out)
        keep = "" if keep_s is None else repr(keep_s)
        words = (tenant_hash(tenant), tenant_name(tenant), kind, keep)
        try:
            writer.check(
                await self._scripts.call(
                    "blob_create", blob_id, *words, int(out is not None), tenant=tenant
                )
            )
            if out is not None:
                await out.begin()
            yield writer
        finally:
            if not writer.committed:
                if out is not None:
                    await out.abandon()
                if writer.stored:  # perhaps too late for a record that leads to them
                    await self._delete_bytes(blob_id)
                await self._scripts.call("blob_delete", blob_id)

    async def _delete_bytes(self, blob_id: str) -> None:
        assert self._store is not None
        with contextlib.suppress(OSError):  # a sweep does it
            await self._store.delete([blob_id])

    @asynccontextmanager
    async def open(self, blob_id: str, *, part: range | None = None) -> AsyncIterator[int]:
        state, *found = await self._scripts.call("blob_read", blob_id, 0, PIECES - 1)
        if state == b"gone":
            raise NotFound("there is no such blob")
        outside, size, sha256, *pieces = found
        if outside == b"1":
            if self._store is None:
                log.error(
                    "blob %s is in the store of other services: set engine.blobs_url", blob_id
                )
                raise EngineUnavailable("the file is in a store that this service does not have")
            blob = Blob(blob_id, int(size), sha256.decode())
            async with self._store.open(blob, part, self._folder) as fd:
                yield fd
            return
        fd = await self._fetched(blob_id, pieces)
        try:
            yield fd
        finally:
            os.close(fd)

    async def _fetched(self, blob_id: str, pieces: list[bytes]) -> int:
        """Return a file with the pieces of a blob, of which these are the first."""
        file = await asyncio.to_thread(new_file, self._folder)
        try:
            at = first = 0
            while pieces:
                data = b"".join(pieces)
                await asyncio.to_thread(write_at, file, data, at)
                at += len(data)
                if len(pieces) < PIECES:
                    break
                first += PIECES
                state, *found = await self._scripts.call(
                    "blob_read", blob_id, first, first + PIECES - 1
                )
                if state == b"gone":
                    raise NotFound("there is no such blob")
                pieces = found[3:]
            return await asyncio.to_thread(reopened, file)
        finally:
            await asyncio.to_thread(os.close, file)

    async def find(self, blob_id: str) -> BlobFacts | None:
        found = await self._scripts.call("blob_find", blob_id)
        if not found:
            return None
        size, sha256, tenant, kind, created, expires = found
        return BlobFacts(
            Blob(blob_id, int(size), sha256.decode()),
            tenant_of(tenant),
            kind.decode(),
            float(created),
            float(expires) if expires else None,
        )

    async def delete(self, blob_id: str) -> None:
        await self._scripts.call("blob_delete", blob_id)

    async def make_evictable(self, blob_id: str) -> None:
        await self._scripts.call("blob_evictable", blob_id)

    async def used_bytes(self) -> int:
        return int(await self._scripts.call("blob_used", ""))

    async def used_by(self, tenant: str) -> int:
        return int(await self._scripts.call("blob_used", tenant_hash(tenant)))


class _Writer:
    """See `streamer.engine.blobs.BlobWriter`. The bytes go to `out`, if that is given."""

    def __init__(
        self,
        blob_id: str,
        scripts: Scripts,
        limits: BlobLimits,
        tenant: str,
        most_bytes: int,
        out: StoreWriter | None,
    ) -> None:
        self.id = blob_id
        self._tenant = tenant
        self.stored = False
        """Whether `out` has all bytes."""
        self.committed = False
        self._scripts = scripts
        self._limits = limits
        self._most = most_bytes
        self._out = out
        self._size = 0
        self._digest = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        if self._size + len(data) > self._most:
            raise TooLarge(f"more than {self._most} bytes")
        if self._out is not None:
            await self._count(len(data), b"")
            await self._out.write(data)
            return
        for at in range(0, len(data), PIECE_BYTES):
            piece = bytes(data[at : at + PIECE_BYTES])
            await self._count(len(piece), piece)
            self._digest.update(piece)

    async def _count(self, size: int, data: bytes) -> None:
        """Count bytes before they are written, and with `data` keep them in the server."""
        words = ("blob_write", self.id, self._size, size, data)
        self.check(await self._scripts.call(*words, tenant=self._tenant))
        self._size += size

    async def commit(self) -> Blob:
        if self.committed:
            raise RuntimeError("the blob is committed already")
        sha256 = self._digest.hexdigest()
        if self._out is not None:
            sha256 = await self._out.commit()
            self.stored = True
        self.check(await self._scripts.call("blob_commit", self.id, sha256))
        self.committed = True
        return Blob(self.id, self._size, sha256)

    def check(self, answer: list[bytes | int]) -> None:
        """Raise what the answer of the script means."""
        state, *counts = answer
        if state == b"full":
            number, size = map(int, counts[4:])
            known = BlobCounts(*map(int, counts[:4]))
            refusal = self._limits.refusal(known, number, size, self._tenant)
            if refusal is not None:
                try:
                    raise refusal
                finally:
                    del refusal  # it has this frame, and with it what was to be written
        if state == b"gone":
            raise OSError("the blob was written too slowly, and is gone")

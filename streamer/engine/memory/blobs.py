"""Keep the blobs of the memory engine: one file each, in the folder of this process."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from streamer.engine import diskcalls
from streamer.engine.blobfile import BlobFile
from streamer.engine.blobs import Blob, BlobFacts
from streamer.engine.diskcalls import DiskCalls
from streamer.engine.limits import BlobCounts, BlobLimits
from streamer.engine.memory.evictable import Evictable
from streamer.errors import Busy, NotFound, RateLimited, TooLarge
from streamer.eventlog.spool import FULL

__all__ = ["DiskBlobs"]

log: Final = logging.getLogger(__name__)

PAGE_BYTES: Final = 4096

ENTRY_BYTES: Final = 4096
"""What a file takes besides its content: on disk an inode and a name, in memory its record."""


@dataclass(eq=False, slots=True)
class _Stored:
    facts: BlobFacts
    charged: int
    readers: int = 0
    jobs: int = 0
    """How many hold it; they count as readers, too."""
    deleted: bool = False


class DiskBlobs:
    """See `streamer.engine.blobs.Blobs`. All methods run in one event loop; close it after use.

    The folder belongs to this process and is removed with it, or by the next service if it was
    killed (`streamer.sandbox.host.state`).
    """

    def __init__(self, limits: BlobLimits, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = wall_clock
        self._folder: Path | None = None
        self._blobs: dict[str, _Stored] = {}
        self._held: dict[str, _Stored] = {}
        """Those that jobs need, deleted ones included."""
        self._used: Counter[str] = Counter()
        self._numbers: Counter[str] = Counter()
        """How many files each tenant has, those that are being written or removed included."""
        self._expires_at = math.inf
        """None expires before."""
        self._evictable = Evictable()
        self.calls = DiskCalls()

    def use_folder(self, folder: Path) -> None:
        self._folder = folder / "blobs"
        self._folder.mkdir(mode=0o700)

    @asynccontextmanager
    async def create(
        self, tenant: str, most_bytes: int, *, kind: str = "", keep_s: float | None = None
    ) -> AsyncIterator[_Writer]:
        file = BlobFile(self._path(secrets.token_hex(16)))
        await self._admit(tenant, number=1, size=ENTRY_BYTES)
        writer = _Writer(self, file, tenant, most_bytes, kind, keep_s)
        try:
            await self.calls.run(file.open)
            yield writer
        finally:
            if not writer.committed:
                # The space is free when the file is gone, whoever still waits for that.
                freed = self.calls.start(file.discard)
                freed.add_done_callback(lambda _: self._credit(tenant, writer.charged))
                await self.calls.ended(freed)

    @asynccontextmanager
    async def open(self, blob_id: str, *, part: range | None = None) -> AsyncIterator[int]:
        stored = self._held.get(blob_id) or self._find(blob_id)
        if stored is None:
            raise NotFound("there is no such blob")
        stored.readers += 1
        self._evictable.touch(blob_id)
        try:
            path = self._path(blob_id)
            fd = await self.calls.run(lambda: os.open(path, READ), os.close)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            stored.readers -= 1
            self._free_if_unused(stored)

    async def find(self, blob_id: str) -> BlobFacts | None:
        stored = self._find(blob_id)
        return None if stored is None else stored.facts

    async def delete(self, blob_id: str) -> None:
        stored = self._blobs.get(blob_id)
        if stored is not None and (freed := self._forget(stored)) is not None:
            await self.calls.ended(freed)

    async def make_evictable(self, blob_id: str) -> None:
        if (stored := self._find(blob_id)) is not None:
            self._evictable.add(blob_id, stored.facts.tenant)

    async def used_bytes(self) -> int:
        return self._used.total()

    async def used_by(self, tenant: str) -> int:
        return self._used[tenant]

    def hold(self, blob_id: str) -> bool:
        """Keep a blob for a job though it is deleted or expires; False if there is none."""
        stored = self._held.get(blob_id) or self._find(blob_id)
        if stored is None:
            return False
        stored.readers += 1
        stored.jobs += 1
        self._held[blob_id] = stored
        return True

    def release(self, blob_id: str) -> None:
        """End one `hold`."""
        stored = self._held[blob_id]
        stored.readers -= 1
        stored.jobs -= 1
        if not stored.jobs:
            del self._held[blob_id]
        self._free_if_unused(stored)

    def adopt(self, blob_id: str) -> None:
        """Let a blob expire no more: it belongs to the record of a job, and goes with it."""
        stored = self._find(blob_id)
        if stored is not None:
            stored.facts = replace(stored.facts, expires_at=None)

    def drop(self, blob_id: str) -> None:
        """Delete a blob, if it is there, without waiting until its space is free."""
        stored = self._blobs.get(blob_id)
        if stored is not None:
            self._forget(stored)

    def expire(self) -> list[asyncio.Future[None]]:
        """Delete the blobs whose time is over; return what frees their space."""
        now = self._clock()
        if now < self._expires_at:
            return []  # nothing to look for among all of them
        over = [stored for stored in self._blobs.values() if _over(stored, now)]
        freed = [one for stored in over if (one := self._forget(stored)) is not None]
        times = (stored.facts.expires_at for stored in self._blobs.values())
        self._expires_at = min((at for at in times if at is not None), default=math.inf)
        return freed

    async def close(self) -> None:
        """Wait, but not long, for the threads; the folder is removed by its owner."""
        await self.calls.close()

    # -- for writers --------------------------------------------------------------------------

    async def charge(self, tenant: str, size: int) -> None:
        """Count bytes before they are written, or refuse them."""
        await self._admit(tenant, number=0, size=size)

    async def _admit(self, tenant: str, *, number: int, size: int) -> None:
        refusal = self._refusal(tenant, number, size)
        if refusal is not None and (freed := self.expire()):
            await asyncio.wait(freed, timeout=diskcalls.CALL_S)
            refusal = self._refusal(tenant, number, size)
        while refusal is not None:
            freed = self._evict(tenant if isinstance(refusal, RateLimited) else None)
            if not freed or (await asyncio.wait(freed, timeout=diskcalls.CALL_S))[1]:
                try:
                    raise refusal
                finally:
                    del refusal  # it has this frame, and with it what was to be written
            refusal = self._refusal(tenant, number, size)
        self._numbers[tenant] += number
        self._used[tenant] += size

    def _refusal(self, tenant: str, number: int, size: int) -> Busy | None:
        numbers, used = self._numbers, self._used
        counts = BlobCounts(numbers[tenant], numbers.total(), used[tenant], used.total())
        return self._limits.refusal(counts, number, size, tenant)

    def _evict(self, tenant: str | None) -> list[asyncio.Future[None]]:
        """Delete the next blob that gives way, of one tenant or of all.

        Return what frees its space.
        """
        for blob_id in self._evictable.of(tenant):
            stored = self._blobs[blob_id]
            if not stored.readers and (freed := self._forget(stored)) is not None:
                return [freed]
        return []

    def _credit(self, tenant: str, size: int) -> None:
        """Count a file that is gone no more."""
        self._used[tenant] -= size
        self._numbers[tenant] -= 1
        if not self._numbers[tenant]:
            del self._used[tenant], self._numbers[tenant]  # tenants come and go

    def keep(self, writer: _Writer, sha256: str) -> Blob:
        blob = Blob(writer.file.path.name, writer.size, sha256)
        now = self._clock()
        expires_at = None if writer.keep_s is None else now + writer.keep_s
        facts = BlobFacts(blob, writer.tenant, writer.kind, now, expires_at)
        self._blobs[blob.id] = _Stored(facts, writer.charged)
        if expires_at is not None:
            self._expires_at = min(self._expires_at, expires_at)
        return blob

    # -- the rest -----------------------------------------------------------------------------

    def _find(self, blob_id: str) -> _Stored | None:
        stored = self._blobs.get(blob_id)
        if stored is not None and _over(stored, self._clock()):
            self._forget(stored)
            return None
        return stored

    def _path(self, blob_id: str) -> Path:
        if self._folder is None:
            raise RuntimeError("blobs have a folder only while their engine runs")
        return self._folder / blob_id

    def _forget(self, stored: _Stored) -> asyncio.Future[None] | None:
        del self._blobs[stored.facts.blob.id]
        self._evictable.remove(stored.facts.blob.id)
        stored.deleted = True
        return self._free_if_unused(stored)

    def _free_if_unused(self, stored: _Stored) -> asyncio.Future[None] | None:
        """Remove a deleted file that nobody reads: until then its space is in use."""
        if not stored.deleted or stored.readers:
            return None
        path = self._path(stored.facts.blob.id)
        freed = self.calls.start(lambda: path.unlink(missing_ok=True))
        tenant, size = stored.facts.tenant, stored.charged
        freed.add_done_callback(lambda _: self._credit(tenant, size))
        return freed


class _Writer:
    """See `streamer.engine.blobs.BlobWriter`."""

    def __init__(
        self,
        blobs: DiskBlobs,
        file: BlobFile,
        tenant: str,
        most_bytes: int,
        kind: str,
        keep_s: float | None,
    ) -> None:
        self.file = file
        self.tenant = tenant
        self.kind = kind
        self.keep_s = keep_s
        self.size = 0
        self.charged = ENTRY_BYTES
        self.committed = False
        self._blobs = blobs
        self._most = most_bytes

    async def write(self, data: bytes) -> None:
        size = self.size + len(data)
        if size > self._most:
            raise TooLarge(f"more than {self._most} bytes")
        more = ENTRY_BYTES + -(-size // PAGE_BYTES) * PAGE_BYTES - self.charged
        await self._blobs.charge(self.tenant, more)
        self.size = size
        self.charged += more
        try:
            await self._blobs.calls.run(lambda: self.file.append(data))
        except OSError as error:
            if error.errno in FULL:
                log.error("the disk has no room for %s: %s", self.file.path.parent, error.strerror)
                raise Busy("the disk is full; try again later", code="storage_full") from error
            raise

    async def commit(self) -> Blob:
        if self.committed:
            raise RuntimeError("the blob is committed already")
        sha256 = await self._blobs.calls.run(self.file.close)
        self.committed = True
        return self._blobs.keep(self, sha256)


READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def _over(stored: _Stored, now: float) -> bool:
    expires_at = stored.facts.expires_at
    return expires_at is not None and expires_at <= now

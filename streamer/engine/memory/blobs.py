"""Keep the blobs of the memory engine: one file each, in the folder of this process."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from streamer.engine.blobs import Blob, BlobFacts
from streamer.errors import Busy, NotFound, RateLimited, TooLarge
from streamer.eventlog.spool import FULL, check_room

__all__ = ["BlobLimits", "DiskBlobs"]

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_BYTES: Final = 4096

ENTRY_BYTES: Final = 4096
"""What a file takes besides its content: on disk an inode and a name, in memory its record."""

CALL_S: Final = 10.0
"""How long to wait for the disk."""

THREADS: Final = ThreadPoolExecutor(8, "streamer-blobs")
"""Only for the system calls on these files, so that nothing else delays them."""


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """The most that all blobs take on disk together, those of one tenant, and how many they are."""

    total: int
    tenant: int | None = None
    number: int = 100_000


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
        self._writers = 0
        self._calls: set[asyncio.Future[Any]] = set()

    def use_folder(self, folder: Path) -> None:
        self._folder = folder / "blobs"
        self._folder.mkdir(mode=0o700)

    @asynccontextmanager
    async def create(
        self, tenant: str, most_bytes: int, *, kind: str = "", keep_s: float | None = None
    ) -> AsyncIterator[_Writer]:
        file = _File(self._path(secrets.token_hex(16)))
        if len(self._blobs) + self._writers >= self._limits.number:
            await self._expired()
        if len(self._blobs) + self._writers >= self._limits.number:
            raise Busy("too many files are stored; try again later", code="storage_full")
        self._writers += 1
        try:
            await self.charge(tenant, ENTRY_BYTES)
            writer = _Writer(self, file, tenant, most_bytes, kind, keep_s)
            try:
                await self.in_thread(file.open)
                yield writer
            finally:
                if not writer.committed:
                    # The space is free when the file is gone, whoever still waits for that.
                    freed = self._start(file.discard)
                    freed.add_done_callback(lambda _: self._credit(tenant, writer.charged))
                    await _ended(freed)
        finally:
            self._writers -= 1

    @asynccontextmanager
    async def open(self, blob_id: str) -> AsyncIterator[int]:
        stored = self._held.get(blob_id) or self._find(blob_id)
        if stored is None:
            raise NotFound("there is no such blob")
        stored.readers += 1
        try:
            path = self._path(blob_id)
            fd = await self.in_thread(lambda: os.open(path, READ), os.close)
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
            await _ended(freed)

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
        over = [stored for stored in self._blobs.values() if _over(stored, now)]
        return [freed for stored in over if (freed := self._forget(stored)) is not None]

    async def close(self) -> None:
        """Wait, but not long, for the threads; the folder is removed by its owner."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=CALL_S / 2)

    # -- for writers --------------------------------------------------------------------------

    async def charge(self, tenant: str, size: int) -> None:
        """Count bytes before they are written, or refuse them."""
        if self._refusal(tenant, size) is not None:
            await self._expired()
        refusal = self._refusal(tenant, size)
        if refusal is not None:
            raise refusal
        self._used[tenant] += size

    def _refusal(self, tenant: str, size: int) -> Busy | None:
        share = self._limits.tenant
        if share is not None and self._used[tenant] + size > share:
            return RateLimited("your share of the disk is used up; delete something, or wait")
        if self._used.total() + size > self._limits.total:
            return Busy("the disk space for files is used up; try again", code="storage_full")
        return None

    async def _expired(self) -> None:
        if freed := self.expire():
            await asyncio.wait(freed, timeout=CALL_S)

    def _credit(self, tenant: str, size: int) -> None:
        self._used[tenant] -= size
        if not self._used[tenant]:
            del self._used[tenant]  # tenants come and go

    def keep(self, writer: _Writer, sha256: str) -> Blob:
        blob = Blob(writer.file.path.name, writer.size, sha256)
        now = self._clock()
        expires_at = None if writer.keep_s is None else now + writer.keep_s
        facts = BlobFacts(blob, writer.tenant, writer.kind, now, expires_at)
        self._blobs[blob.id] = _Stored(facts, writer.charged)
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
        stored.deleted = True
        return self._free_if_unused(stored)

    def _free_if_unused(self, stored: _Stored) -> asyncio.Future[None] | None:
        """Remove a deleted file that nobody reads: until then its space is in use."""
        if not stored.deleted or stored.readers:
            return None
        path = self._path(stored.facts.blob.id)
        freed = self._start(lambda: path.unlink(missing_ok=True))
        tenant, size = stored.facts.tenant, stored.charged
        freed.add_done_callback(lambda _: self._credit(tenant, size))
        return freed

    def _start(self, function: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(THREADS, function)
        self._calls.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._calls.discard(future)
        if not future.cancelled():
            future.exception()  # the caller may be gone; do not log it

    async def in_thread(
        self, function: Callable[[], T], undo: Callable[[T], None] = lambda _: None
    ) -> T:
        """Run system calls in a thread; `undo` their result if nobody waits for it any more."""
        future = self._start(function)
        left = True
        try:
            await asyncio.wait({future}, timeout=CALL_S)
            if not future.done():
                raise OSError(errno.EIO, f"the disk does not answer within {CALL_S:g} s")
            left = False
            return future.result()
        finally:
            if left:
                future.add_done_callback(partial(_undo, undo))


class _Writer:
    """See `streamer.engine.blobs.BlobWriter`."""

    def __init__(
        self,
        blobs: DiskBlobs,
        file: _File,
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
            await self._blobs.in_thread(lambda: self.file.append(data))
        except OSError as error:
            if error.errno in FULL:
                log.error("the disk has no room for %s: %s", self.file.path.parent, error.strerror)
                raise Busy("the disk is full; try again later", code="storage_full") from error
            raise

    async def commit(self) -> Blob:
        if self.committed:
            raise RuntimeError("the blob is committed already")
        sha256 = await self._blobs.in_thread(self.file.close)
        self.committed = True
        return self._blobs.keep(self, sha256)


READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _File:
    """The file of a writer. Its methods run in threads.

    A writer may be abandoned while a thread writes: the lock keeps the descriptor open until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._fd = -1
        self._discarded = False

    def open(self) -> None:
        with self._lock:
            if not self._discarded:
                self._fd = os.open(self.path, NEW, 0o600)

    def append(self, data: bytes) -> None:
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the file is closed")
            check_room(self._fd, len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._digest.update(data)

    def close(self) -> str:
        """Close the file and return its SHA-256."""
        with self._lock:
            fd, self._fd = self._fd, -1
            os.close(fd)
            return self._digest.hexdigest()

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)
            with suppress(FileNotFoundError):
                self.path.unlink()


def _over(stored: _Stored, now: float) -> bool:
    expires_at = stored.facts.expires_at
    return expires_at is not None and expires_at <= now


def _undo(undo: Callable[[T], None], future: asyncio.Future[T]) -> None:
    if future.exception() is None:
        undo(future.result())


async def _ended(future: asyncio.Future[None]) -> None:
    """Wait, but not long, for a clean-up, which goes on if this is cancelled."""
    await asyncio.wait({future}, timeout=CALL_S)

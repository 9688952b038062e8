"""Keep on disk what does not fit into memory: extents in a file that has no name.

All logs share one file, so there is one descriptor and not one for each log. It has no name from
its first moment (``O_TMPFILE``, open(2)), so nothing is left behind however the service ends. What
is freed is used again at once, page by page (`pages`); the file is given back to the
disk when nothing in it is used.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from streamer.eventlog.pages import PAGE_BYTES, Pages, Run

__all__ = ["Extent", "Spool"]

log: Final = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

GROWTH_BYTES: Final = 32 * 1024 * 1024
"""Before the file grows by as much it is asked whether the disk has that."""

LEAST_FREE: Final = 0.05
"""The part of the file system that is left to others."""

AT_ONCE: Final = 8

THREADS: Final = ThreadPoolExecutor(AT_ONCE, "streamer-events")
"""For the system calls on all such files, and nothing else: what is slow elsewhere delays none."""


@dataclass(eq=False, slots=True)
class Extent:
    """Some bytes on disk."""

    runs: tuple[Run, ...]
    size: int
    busy: int = 0
    """System calls under way. Until they are over its pages must not become another's."""
    freed: bool = False


class Spool:
    """A file below `folder` of at most `max_bytes`; none where there is no folder.

    Reading and writing happen in threads: a disk may take its time, and the loop must not
    wait for it. Everything else runs on one event loop. Close it after use.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        self._folder = folder
        self._pages = Pages(max_bytes // PAGE_BYTES)
        self._fd = -1
        self._busy = 0
        self._checked_bytes = 0
        """Up to which size of the file the disk was asked."""
        self._writing = asyncio.Lock()
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._broken = False

    def settle(self, folder: Path) -> None:
        """Say where the file is; before, and without, nothing is taken."""
        self._folder = folder

    @property
    def used_bytes(self) -> int:
        """How much disk is in use."""
        return self._pages.used * PAGE_BYTES

    async def write(self, pieces: Sequence[bytes]) -> list[Extent]:
        """Write pieces and return where they are: as many as there is room for, from the first."""
        extents: list[Extent] = []
        try:
            async with self._writing:
                for piece in pieces:
                    extent = await self._write(piece)
                    if extent is None:
                        break
                    extents.append(extent)
        except BaseException:
            for extent in extents:
                self.free(extent)
            raise
        return extents

    async def read(self, extent: Extent) -> bytes:
        """Read an extent. Raises OSError when the disk fails, or the extent is freed meanwhile.

        A few at a time: what the threads have read waits for its reader, in nobody's account, and
        they read faster than a busy loop can take it. There may be as many readers as streams.
        """
        async with self._reading:
            data = await self._in_thread(extent, _read, self._fd, extent.runs, extent.size)
        if len(data) < extent.size:
            raise OSError(errno.EIO, "the file of old events is shorter than it was")
        return data

    def free(self, extent: Extent) -> None:
        """Give an extent back; what reads it at the moment still reads it."""
        extent.freed = True
        self._let_go(extent)

    def close(self) -> None:
        """Close the file, one in use as soon as it is not."""
        self._folder = None
        self._pages = Pages(0)
        self._close_if_unused()

    async def _write(self, piece: bytes) -> Extent | None:
        if self._folder is None:
            return None
        runs = self._pages.take(-(-len(piece) // PAGE_BYTES))
        if not runs:
            return None
        extent = Extent(runs, len(piece))
        try:
            self._make_room(self._folder)
            await self._in_thread(extent, _write, self._fd, runs, piece)
        except OSError as error:
            self._fail(error)
            self.free(extent)
            return None
        except BaseException:
            self.free(extent)
            raise
        self._broken = False
        return extent

    def _make_room(self, folder: Path) -> None:
        """Open the file, and look whether it may grow to what is taken of it."""
        size = self._pages.end * PAGE_BYTES
        if size > self._checked_bytes:
            grown = max(size, self._checked_bytes + GROWTH_BYTES)
            _check_room(folder, grown - self._checked_bytes)
            self._checked_bytes = grown
        if self._fd < 0:
            self._fd = _nameless_file(folder)

    async def _in_thread(
        self, extent: Extent, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run system calls for an extent in a thread.

        The file and the extent stay until they are over, even if nobody waits for them any more.
        """
        if self._fd < 0:
            raise OSError(errno.EBADF, "the file of old events is closed")
        extent.busy += 1
        self._busy += 1
        call = functools.partial(function, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(THREADS, call)

        def over(future: asyncio.Future[T]) -> None:
            extent.busy -= 1
            self._busy -= 1
            self._let_go(extent)
            self._close_if_unused()
            if not future.cancelled():
                future.exception()  # told to whoever waits

        future.add_done_callback(over)
        return await asyncio.shield(future)

    def _let_go(self, extent: Extent) -> None:
        if extent.freed and not extent.busy and extent.runs:
            if self._folder is not None:  # else it was closed, with all that is in it
                self._pages.give_back(extent.runs)
            extent.runs = ()
            self._close_if_unused()

    def _fail(self, error: OSError) -> None:
        if not self._broken:
            log.error("old events cannot be kept on disk in %s: %s", self._folder, error.strerror)
        self._broken = True

    def _close_if_unused(self) -> None:
        if self._fd >= 0 and not self._busy and not self._pages.used:
            os.close(self._fd)
            self._fd = -1
            self._checked_bytes = 0


def _read(fd: int, runs: Sequence[Run], size: int) -> bytes:
    parts = []
    for first, count in runs:
        part = os.pread(fd, min(count * PAGE_BYTES, size), first * PAGE_BYTES)
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(fd: int, runs: Sequence[Run], piece: bytes) -> None:
    rest = memoryview(piece)
    for first, count in runs:
        part, rest = rest[: count * PAGE_BYTES], rest[count * PAGE_BYTES :]
        if os.pwrite(fd, part, first * PAGE_BYTES) < len(part):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check_room(folder: Path, size: int) -> None:
    place = os.statvfs(folder)
    free, whole = place.f_bavail * place.f_frsize, place.f_blocks * place.f_frsize
    if free - size < LEAST_FREE * whole:
        raise OSError(errno.ENOSPC, "the disk is nearly full")


def _nameless_file(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    fd, name = tempfile.mkstemp(dir=folder)  # a file system without nameless files
    os.unlink(name)  # noqa: PTH108 - beside mkstemp, which speaks in strings
    return fd

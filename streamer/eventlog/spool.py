"""Keep blocks of logs on disk, in one file without a name.

All logs share the file, so it takes one descriptor instead of one for each log. It never has a name
(``O_TMPFILE``, open(2)), so nothing is left on disk however the service ends. Freed pages are used
again at once; when the file is empty, it is closed, which returns its room to the disk.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

from streamer.eventlog.pages import PAGE_BYTES, Pages, Run

__all__ = ["FULL", "WRITE_BYTES", "Extent", "Spool", "check_room"]

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

MOST_PARTS: Final = 1024
"""The most buffers of one pwritev: IOV_MAX (limits.h)."""

PADDING: Final = memoryview(bytes(PAGE_BYTES))
"""The end of a piece's last page, so that one call can write several pieces."""

LEAST_FREE: Final = 0.05
"""The part of the file system that is left free."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that works and has no room; freed pages can still be used."""

WRITE_BYTES: Final = 4 * 1024 * 1024
"""How much to write in one call."""

WRITE_S: Final = 10.0
"""How long to wait for it. A disk that takes longer counts as failed until it is done."""

PAUSE_S: Final = 1.0
"""How long nothing is written after a write that failed or took too long, unless the disk was full.

Each further one doubles it, up to `MOST_PAUSE_S`: while a job writes there, others wait for it.
"""

MOST_PAUSE_S: Final = 64.0

READ_S: Final = 10.0
"""How long to wait for it. After that the reader gets a gap instead of these events."""

AT_ONCE: Final = 8

THREADS: Final = ThreadPoolExecutor(AT_ONCE, "streamer-events")
"""Only for the system calls on these files, so that nothing else delays them."""


@dataclass(eq=False, slots=True)
class Extent:
    """The place of one block on disk."""

    runs: Sequence[Run]
    size: int
    calls: int = 0
    """Running system calls. Until they are over, its pages must not be used again."""
    freed: bool = False


class Spool:
    """A file of at most `max_bytes` in `folder`; without a folder nothing is written.

    Every call that may block on the disk runs in a thread, everything else on one event loop.
    Close it after use.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        self._folder = folder
        self._pages = Pages(max_bytes // PAGE_BYTES)
        self._fd = -1
        self._opening = threading.Lock()
        self._calls = 0
        """Running system calls."""
        self._reading = asyncio.Semaphore(AT_ONCE)
        self._broken = False
        self._overdue: asyncio.Future[None] | None = None
        """The write that took too long."""
        self._pause_s = 0.0
        self._again_at = 0.0
        """When something may be written again, on the monotonic clock."""
        self.turn = asyncio.Lock()
        """A log holds it while it chooses and writes blocks."""

    def use_folder(self, folder: Path) -> None:
        self._folder = folder

    @property
    def used_bytes(self) -> int:
        return self._pages.used * PAGE_BYTES

    async def write(self, pieces: Sequence[bytes]) -> list[Extent]:
        """Write as many of the pieces as there is room for, from the first; return their places.

        If the disk is full, none is written. Raises OSError if it fails or hangs: others wait for
        their turn to write, and their jobs with them. So it then raises for a while at once.
        """
        folder = self._folder
        if folder is None:
            return []
        if monotonic() < self._again_at or self._hangs:
            raise OSError(errno.EIO, "an earlier write has failed, or still hangs")
        extents: list[Extent] = []
        for piece in pieces:
            runs = self._pages.take(-(-len(piece) // PAGE_BYTES))
            if not runs:
                break
            extents.append(Extent(runs, len(piece)))
        if not extents:
            return []
        try:
            await self._write_in_time(folder, extents, pieces)
        except OSError as error:
            if not self._broken:
                log.error("old events cannot be kept on disk in %s: %s", folder, error.strerror)
            self._broken = True
            self.free(*extents)
            if error.errno not in FULL:
                self._pause()
                raise
            return []
        except BaseException:
            self.free(*extents)
            raise
        self._broken = False
        self._pause_s = 0.0
        return extents

    async def read(self, extent: Extent) -> bytes:
        """Read an extent. Raises OSError if the disk fails, or if the extent was freed meanwhile.

        Without a thread if the system still has it in memory, which takes a tenth of the time.
        Otherwise only `AT_ONCE` at a time: with many readers, threads read faster than a busy event
        loop hands the data on, and no limit counts data that waits for that.
        """
        await asyncio.sleep(0)  # others have their turns, however fast the reader's client is
        if not extent.freed and self._folder is not None:
            data = _read_now(self._fd, extent)
            if data is not None:
                return data
        async with self._reading:
            if extent.freed or self._folder is None:
                raise OSError(errno.EBADF, "these events were dropped")
            reading = self._in_thread((extent,), lambda: _read(self._fd, extent))
            await asyncio.wait({reading}, timeout=READ_S)
            if not reading.done():
                raise OSError(errno.EIO, f"a read takes longer than {READ_S:g} s")
            return reading.result()

    def free(self, *extents: Extent) -> None:
        """Free extents. A read that has begun still succeeds."""
        for extent in extents:
            extent.freed = True
        self._let_go(extents)

    def close(self) -> None:
        """Close the file as soon as no system call uses it."""
        self._folder = None
        self._pages = Pages(0)
        self._let_go(())

    async def _write_in_time(
        self, folder: Path, extents: Sequence[Extent], pieces: Sequence[bytes]
    ) -> None:
        writing = self._in_thread(extents, lambda: self._write(folder, extents, pieces))
        await asyncio.wait({writing}, timeout=WRITE_S)
        if not writing.done():
            self._overdue = writing
            writing.add_done_callback(lambda _: self._pause())  # counted from its end
            raise OSError(errno.EIO, f"a write takes longer than {WRITE_S:g} s")
        writing.result()

    @property
    def _hangs(self) -> bool:
        return self._overdue is not None and not self._overdue.done()

    def _pause(self) -> None:
        """Write nothing for a while, from now or from the end of a write that hangs."""
        if not self._hangs:
            self._pause_s = min(max(2 * self._pause_s, PAUSE_S), MOST_PAUSE_S)
            self._again_at = monotonic() + self._pause_s

    def _in_thread(self, extents: Sequence[Extent], function: Callable[[], T]) -> asyncio.Future[T]:
        """Run system calls for extents in a thread.

        The file and the extents stay until they are over, even if nobody waits any more.
        """
        self._calls += 1
        for extent in extents:
            extent.calls += 1
        future = asyncio.get_running_loop().run_in_executor(THREADS, function)

        def over(future: asyncio.Future[T]) -> None:
            self._calls -= 1
            for extent in extents:
                extent.calls -= 1
            self._let_go(extents)
            if not future.cancelled():
                future.exception()  # the caller may be gone; do not log it

        future.add_done_callback(over)
        return future

    def _let_go(self, extents: Sequence[Extent]) -> None:
        """Free the pages of extents, and close the file, if no call uses them."""
        for extent in extents:
            if extent.freed and not extent.calls:
                if self._folder is not None:  # closed otherwise
                    self._pages.give_back(extent.runs)
                extent.runs = ()
        if self._fd >= 0 and not self._calls and not self._pages.used:
            THREADS.submit(self._close_if_unused)

    # -- in threads ---------------------------------------------------------------------------

    def _write(self, folder: Path, extents: Sequence[Extent], pieces: Sequence[bytes]) -> None:
        with self._opening:
            if self._fd < 0:
                self._fd = _nameless_file(folder)
        end = max(first + count for extent in extents for first, count in extent.runs)
        # Freed pages are still the file's: on a full disk they must remain usable.
        growth = end * PAGE_BYTES - os.fstat(self._fd).st_size
        check_room(self._fd, growth)
        for first, parts in _consecutive(extents, pieces):
            size = sum(map(len, parts))
            if os.pwritev(self._fd, parts, first * PAGE_BYTES) < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _close_if_unused(self) -> None:
        # A write counts as a call before its thread waits for this lock.
        with self._opening:
            if self._fd >= 0 and not self._calls and not self._pages.used:
                os.close(self._fd)
                self._fd = -1


def check_room(fd: int, growth: int) -> None:
    """Raise OSError (ENOSPC) if the file system would be nearly full after a growth of the file."""
    disk = os.fstatvfs(fd)
    least = LEAST_FREE * disk.f_blocks * disk.f_frsize
    if growth > 0 and disk.f_bavail * disk.f_frsize - growth < least:
        raise OSError(errno.ENOSPC, "the disk is nearly full")


def _read_now(fd: int, extent: Extent) -> bytes | None:
    """Read an extent that is in the page cache as a whole; None if it is not, or on failure."""
    buffer = bytearray(extent.size)
    rest = memoryview(buffer)
    try:
        for first, count in extent.runs:
            part = rest[: count * PAGE_BYTES]
            if os.preadv(fd, [part], first * PAGE_BYTES, os.RWF_NOWAIT) < len(part):
                return None
            rest = rest[len(part) :]
    except OSError:  # EAGAIN; EOPNOTSUPP of a file system that cannot tell
        return None
    return bytes(buffer)


def _read(fd: int, extent: Extent) -> bytes:
    parts, rest = [], extent.size
    for first, count in extent.runs:
        parts.append(os.pread(fd, min(count * PAGE_BYTES, rest), first * PAGE_BYTES))
        rest -= len(parts[-1])
    if rest:
        raise OSError(errno.EIO, "the file of old events is shorter than it was")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _consecutive(
    extents: Sequence[Extent], pieces: Sequence[bytes]
) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield the first page and the parts of each write, as few of them as possible.

    After each system call the thread waits until the event loop lets go of the interpreter, which
    takes up to 5 ms: longer than the call.
    """
    first = end = 0
    parts: list[memoryview] = []
    for extent, piece in zip(extents, pieces, strict=False):
        rest = memoryview(piece)
        for start, count in extent.runs:
            if parts and (start != end or len(parts) + 2 > MOST_PARTS):
                yield first, parts
                parts = []
            if not parts:
                first = start
            room = count * PAGE_BYTES
            parts += [rest[:room], PADDING[: max(room - len(rest), 0)]]
            rest = rest[room:]
            end = start + count
    yield first, parts


def _nameless_file(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    fd, name = tempfile.mkstemp(dir=folder)  # a file system without nameless files
    os.unlink(name)  # noqa: PTH108 - beside mkstemp, which speaks in strings
    return fd

"""Keep on disk what does not fit into memory: extents in files that have no name.

All logs share files of `SEGMENT_BYTES`, so the number of descriptors is that of the files
and not of the logs. A file has no name from its first moment (``O_TMPFILE``, open(2)), so
nothing is left behind however the service ends. Its room on disk comes back when the last extent in
it is freed; logs expire by time, so that is about in the order of writing.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

__all__ = ["SEGMENT_BYTES", "Extent", "Spool"]

log: Final = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SEGMENT_BYTES: Final = 32 * 1024 * 1024
LEAST_FREE: Final = 0.05
"""The part of the file system that is left to others."""


@dataclass(eq=False, slots=True)
class _Segment:
    fd: int
    used: int = 0
    live: int = 0
    """Bytes of extents that are not freed."""
    busy: int = 0
    """System calls under way."""
    full: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """Some bytes on disk."""

    segment: _Segment
    offset: int
    size: int


class Spool:
    """The files below `folder`, at most `max_bytes` of them; none where there is no folder.

    Reading and writing happen in threads: a disk may take its time, and the loop must not
    wait for it. Everything else runs on one event loop. Close it after use.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes)
        self._folder = folder
        self._segments: list[_Segment] = []
        self._writing = asyncio.Lock()
        self._broken = False

    def settle(self, folder: Path) -> None:
        """Say where the files are; before, and without, nothing is taken."""
        self._folder = folder

    @property
    def used_bytes(self) -> int:
        """How much disk the files take."""
        return sum(segment.used for segment in self._segments)

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
        """Read an extent that is not freed. Raises OSError when the disk fails."""
        fd = extent.segment.fd
        data = await self._in_thread(extent.segment, os.pread, fd, extent.size, extent.offset)
        if len(data) < extent.size:
            raise OSError(errno.EIO, "the file of old events is shorter than it was")
        return data

    def free(self, extent: Extent) -> None:
        """Give an extent back; it is not read afterwards."""
        extent.segment.live -= extent.size
        self._close_if_empty(extent.segment)

    def close(self) -> None:
        """Close every file, one in use as soon as it is not."""
        self._folder = None
        for segment in tuple(self._segments):
            segment.full = True
            segment.live = 0
            self._close_if_empty(segment)

    async def _write(self, piece: bytes) -> Extent | None:
        if len(piece) > self._segment_bytes:
            return None
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.full or segment.used + len(piece) > self._segment_bytes:
            if segment is not None:
                segment.full = True
                self._close_if_empty(segment)
            segment = self._new_segment()
        if segment is None:
            return None
        extent = Extent(segment, segment.used, len(piece))
        segment.used += len(piece)
        segment.live += len(piece)
        try:
            written = await self._in_thread(segment, os.pwrite, segment.fd, piece, extent.offset)
        except OSError as error:
            self._fail(error)
            written = 0
        except BaseException:
            self.free(extent)
            raise
        if written < len(piece):
            segment.full = True
            self.free(extent)
            return None
        self._broken = False
        return extent

    async def _in_thread(
        self, segment: _Segment, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a system call on a segment's file in a thread.

        The file stays open until the call is over, even if nobody waits for it any more: the number
        of a closed descriptor may be another file's at once.
        """
        segment.busy += 1
        call = functools.partial(function, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(None, call)

        def over(future: asyncio.Future[T]) -> None:
            segment.busy -= 1
            self._close_if_empty(segment)
            if not future.cancelled():
                future.exception()  # told to whoever waits

        future.add_done_callback(over)
        return await asyncio.shield(future)

    def _new_segment(self) -> _Segment | None:
        if self._folder is None or self.used_bytes + self._segment_bytes > self._max_bytes:
            return None
        try:
            _check_room(self._folder, self._segment_bytes)
            fd = _nameless_file(self._folder)
        except OSError as error:
            self._fail(error)
            return None
        segment = _Segment(fd)
        self._segments.append(segment)
        return segment

    def _fail(self, error: OSError) -> None:
        if not self._broken:
            log.error("old events cannot be kept on disk in %s: %s", self._folder, error.strerror)
        self._broken = True

    def _close_if_empty(self, segment: _Segment) -> None:
        # Extents of a spool that was closed are freed later than their file: `live` is below 0.
        if segment.full and segment.live <= 0 and not segment.busy and segment.fd >= 0:
            os.close(segment.fd)
            segment.fd = -1
            self._segments.remove(segment)


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

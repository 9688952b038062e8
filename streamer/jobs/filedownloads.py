"""Sources that send stored files: one of them or a part of it, or all as a zip archive."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from streamer.engine.blobs import JobFile
from streamer.eventlog.log import Cursor
from streamer.jobs.archives.zipped import end_of, header_of
from streamer.jobs.job import Job

__all__ = ["FileSource", "ZipSource", "read_at"]

PIECE_BYTES: Final = 64 * 1024

THREADS: Final = ThreadPoolExecutor(8, "streamer-files")
"""Only to read stored files, so that nothing else delays them."""


async def read_at(fd: int, most: int, at: int) -> bytes:
    """Read a part of a stored file.

    Returns only when the thread has ended, however often it is cancelled: the descriptor may be
    closed next.
    """
    reading = asyncio.get_running_loop().run_in_executor(THREADS, os.pread, fd, most, at)
    cancelled: asyncio.CancelledError | None = None
    while not reading.done():
        try:
            await asyncio.wait({reading})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        reading.exception()  # nobody waits for it
        raise cancelled
    return reading.result()


class FileSource:
    """The bytes of an open stored file from `start` up to `end`."""

    cursors: Sequence[Cursor] = ()

    def __init__(self, fd: int, start: int, end: int) -> None:
        self._fd = fd
        self._at = start
        self._end = end
        self._read = 0

    async def read(self) -> bytes:
        """Return the next bytes. Raises OSError."""
        if self.ended:
            return b""
        piece = await read_at(self._fd, min(PIECE_BYTES, self._end - self._at), self._at)
        if not piece:
            raise OSError(errno.EIO, "a stored file is shorter than it was")
        self._read = len(piece)
        return piece

    def sent(self) -> None:
        self._at += self._read

    @property
    def ended(self) -> bool:
        return self._at >= self._end


class ZipSource:
    """All files of a job as a zip archive, of which one piece is in memory. Close it after use."""

    cursors: Sequence[Cursor] = ()

    def __init__(self, job: Job, files: Sequence[JobFile], made_at: float) -> None:
        self._pieces = _zipped(job, files, made_at)
        self._piece: bytes | None = None

    async def read(self) -> bytes:
        """Return the next bytes. Raises `Gone` if the job has been deleted, OSError."""
        if self._piece is None:
            self._piece = await anext(self._pieces, b"")
        return self._piece

    def sent(self) -> None:
        self._piece = None

    @property
    def ended(self) -> bool:
        return self._piece == b""

    async def aclose(self) -> None:
        await self._pieces.aclose()


async def _zipped(
    job: Job, files: Sequence[JobFile], made_at: float
) -> AsyncGenerator[bytes, None]:
    for file in files:
        yield header_of(file, made_at)
        async with job.open_file(file, part=range(file.blob.bytes)) as fd:
            source = FileSource(fd, 0, file.blob.bytes)
            while piece := await source.read():
                yield piece
                source.sent()
    yield end_of(files, made_at)

"""Take out of a sandbox what a compiler has left in its workspace, to be put into others.

It becomes a blob in the form of stored projects (`streamer.model.project`). Regular files and
folders are kept, opened by the init as the sandbox's user, beneath the workspace and without
following links; of a mode only whether a file can be executed. Links, and names that are too long
or not UTF-8, are left out.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from streamer.engine.blobs import Blobs, BlobWriter
from streamer.errors import Busy, SandboxFailure, TooLarge
from streamer.model.filenames import MAX_NAME_BYTES
from streamer.model.job import JobProject, Limits, most_inodes
from streamer.model.project import HEAD, end_of_project, head_of
from streamer.sandbox.listing import Entry, Listing
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit

__all__ = ["BUILD", "Build", "NotStored", "store_build"]

log: Final = logging.getLogger(__name__)

T = TypeVar("T")

BUILD: Final = "build"
"""The kind of such a blob."""

PIECE_BYTES: Final = 1024 * 1024

KEEP_S: Final = 86_400.0
"""A build outlives its worker by so much, in an engine that does: usually it is deleted before."""

AS_STORED: Final = (0o644, 0o755)

THREADS: Final = ThreadPoolExecutor(2, "streamer-builds")
"""Only for reading what compilers have left, so that nothing else waits for it."""


class NotStored(Exception):
    """What was compiled cannot be stored, by no fault of its sandbox. Callers get the message."""


@dataclass(frozen=True, slots=True)
class Build:
    """What was stored; `whole` says that a sandbox that gets it has the same."""

    project: JobProject
    whole: bool


async def store_build(
    sandbox: Sandbox, blobs: Blobs, tenant: str, limits: Limits, most: int | None = None
) -> Build:
    """Store the workspace of a sandbox in which no program runs; the caller deletes the blob.

    `limits` are those of the job's compiler. Raises `FilesDoNotFit`, also if it has more than
    `most` bytes, `NotStored`, `SandboxFailure`.
    """
    is_open = True
    try:
        listing = await sandbox.list_files(most_inodes(limits))
    except PermissionError:  # a compiler can take those of the workspace itself away
        listing, is_open = Listing((), complete=True), False
    if not listing.complete:
        raise FilesDoNotFit
    entries = [entry for entry in listing.entries if _can_be_kept(entry)]
    heads = (len(entries) + 1) * (HEAD.size + MAX_NAME_BYTES)
    most = limits.disk_bytes + heads if most is None else most
    if sum(entry.size for entry in entries if stat.S_ISREG(entry.mode)) > most:
        raise FilesDoNotFit  # before any of it is read
    try:
        async with blobs.create(tenant, most, kind=BUILD, keep_s=KEEP_S) as writer:
            build = _Build(writer)
            for entry in entries:
                await build.add(sandbox, entry)
            await build.end()
            blob = await writer.commit()
    except TooLarge:
        raise FilesDoNotFit from None
    except Busy as error:
        raise NotStored(f"there is no room for the compiled program: {error}") from error
    except OSError as error:
        log.error("a compiled program could not be stored: %s", error)
        raise NotStored("the compiled program could not be stored") from error
    whole = is_open and build.whole and len(entries) == len(listing.entries)
    return Build(JobProject(blob.id, build.bytes, build.entries), whole)


def _can_be_kept(entry: Entry) -> bool:
    if not (stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)):
        return False
    try:
        return len(entry.path.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


class _Build:
    """What is written so far."""

    def __init__(self, writer: BlobWriter) -> None:
        self.bytes = 0
        self.entries = 0
        self.whole = True
        self._writer = writer
        self._size = 0
        self._piece = bytearray()

    async def add(self, sandbox: Sandbox, entry: Entry) -> None:
        """Add a file or folder; one that its own user may not read is left out."""
        if stat.S_ISDIR(entry.mode):
            await self._write(head_of(entry.path, 0, folder=True))
            self.whole &= stat.S_IMODE(entry.mode) == 0o755
            self.entries += 1
            return
        try:
            fd = await sandbox.open_path(entry.path, os.O_RDONLY)
        except PermissionError:
            self.whole = False
            return
        try:
            found, content = await _in_thread(partial(_beginning, fd))
            if not stat.S_ISREG(found.st_mode):
                raise SandboxFailure("a compiled file became something else while it was read")
            self.whole &= found.st_nlink == 1 and stat.S_IMODE(found.st_mode) in AS_STORED
            executable = bool(found.st_mode & 0o111)
            await self._write(head_of(entry.path, found.st_size, executable=executable) + content)
            async for piece in _rest(fd, len(content), found.st_size):
                await self._write(piece)
        finally:
            os.close(fd)
        self.bytes += found.st_size
        self.entries += 1

    async def end(self) -> None:
        await self._write(end_of_project(self._size))
        await self._writer.write(bytes(self._piece))

    async def _write(self, data: bytes) -> None:
        self._size += len(data)
        self._piece += data
        if len(self._piece) >= PIECE_BYTES:
            await self._writer.write(bytes(self._piece))
            self._piece.clear()


def _beginning(fd: int) -> tuple[os.stat_result, bytes]:
    found = os.fstat(fd)
    return found, _read(fd, 0, min(found.st_size, PIECE_BYTES))


async def _rest(fd: int, at: int, end: int) -> AsyncIterator[bytes]:
    while at < end:
        piece = await _in_thread(partial(_read, fd, at, min(end - at, PIECE_BYTES)))
        yield piece
        at += len(piece)


def _read(fd: int, at: int, size: int) -> bytes:
    """Read so many bytes: nothing of the sandbox runs that could make the file shorter."""
    data = os.pread(fd, size, at)
    while len(data) < size:
        more = os.pread(fd, size - len(data), at + len(data))
        if not more:
            raise SandboxFailure("a compiled file became shorter while it was read")
        data += more
    return data


async def _in_thread(work: Callable[[], T]) -> T:
    """Wait for a thread to its end: what it reads is closed next."""
    future = asyncio.get_running_loop().run_in_executor(THREADS, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise

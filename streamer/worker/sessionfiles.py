"""Answer requests about the workspace of a session, while no program runs in it.

Jobs have filled it. The init opens what is asked for, beneath the workspace and without following a
link; what is not a regular file is never read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from streamer.engine.blobs import Blob, Blobs
from streamer.errors import Busy, EngineUnavailable, NotFound, RateLimited, quoted
from streamer.model.session import (
    ANY_VERSION,
    Done,
    Known,
    Listed,
    ListedFile,
    ListFiles,
    ReadFile,
    Refused,
    RemoveFile,
    ResolvedSession,
    SessionAnswer,
    SessionRequest,
    Stored,
    WriteFile,
)
from streamer.sandbox.drivers.deadlines import fails_after
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit, LargeFile, PathRefused

__all__ = ["SESSION_BLOB", "SessionFiles"]

log: Final = logging.getLogger(__name__)

SESSION_BLOB: Final = "session"
KEEP_S: Final = 600.0
"""Who asked for a file deletes its blob at once, unless it was lost in between."""

PIECE_BYTES: Final = 256 * 1024
MOST_CHARACTERS: Final = 1024 * 1024
"""Of all names in a list: each may be six bytes in JSON, which is encoded in the event loop."""

REMOVE_TIMEOUT_S: Final = 20.0

THREADS: Final = ThreadPoolExecutor(4, "streamer-session-files")
"""Only for these files, so that other slow work does not delay them."""


class SessionFiles:
    """The files of one session."""

    def __init__(
        self, session: ResolvedSession, sandbox: Sandbox, blobs: Blobs, most_bytes: int
    ) -> None:
        """`most_bytes` is the most that is read of a file at once."""
        self._session = session
        self._sandbox = sandbox
        self._blobs = blobs
        self._most = most_bytes
        self.version = 1
        """Another one after everything that may have changed the workspace.

        Not the files' own times: where they are memory a job may write to them without changing
        these (mmap(2)).
        """

    async def answer(self, request: SessionRequest) -> SessionAnswer:
        """Do what is asked for. Raises `SandboxFailure` if the sandbox is broken."""
        try:
            return await self._done(request)
        except RateLimited as error:
            return Refused("limited", error.message)
        except Busy as error:
            return Refused("full", error.message)  # of the disk for blobs
        except EngineUnavailable as error:
            return Refused("away", error.message)
        except OSError as error:  # of the disk with the blobs
            log.error("session %s: %s", self._session.session_id, error)
            return Refused("failed", "the service cannot store files at the moment")

    async def _done(self, request: SessionRequest) -> SessionAnswer:
        match request:
            case ListFiles():
                return await self._list()
            case ReadFile():
                return await self._read(request)
            case WriteFile():
                self.version += 1
                return await self._write(request)
            case RemoveFile():
                self.version += 1
                return await self._remove(request.name)
        return Done()

    async def _list(self) -> Listed | Refused:
        try:
            listing = await self._sandbox.list_files()
        except OSError as error:
            why = "a job has made the workspace inaccessible"
            return Refused("conflict", f"{why}: {os.strerror(error.errno or 0)}")
        files: list[ListedFile] = []
        room = MOST_CHARACTERS
        for entry in listing.entries:
            room -= len(entry.path)
            if room < 0:
                break
            if _is_text(entry.path):
                kind = _kind(entry.mode)
                size = entry.size if kind == "file" else 0
                files.append(ListedFile(entry.path, kind, size))
        whole = listing.complete and not listing.closed and len(files) == len(listing.entries)
        return Listed(tuple(files), whole)

    async def _read(self, request: ReadFile) -> SessionAnswer:
        name = request.name
        try:
            fd = await self._sandbox.open_path(name, os.O_RDONLY)
        except OSError as error:
            return _refusal(error, name)
        with contextlib.ExitStack() as held:
            held.callback(os.close, fd)
            if request.known in (ANY_VERSION, self.version):
                return Known(self.version)
            total = os.fstat(fd).st_size
            asked = request.part if request.part_of in (None, self.version) else None
            part = range(total) if asked is None else asked.within(total)
            if part is None:
                return Refused("range", f"{quoted(name)} has {total} bytes", total)
            if len(part) > self._most:
                return Refused(
                    "too_large",
                    f"{quoted(name)} has {total} bytes, and {self._most} can be read at once "
                    "(sessions.max_file_bytes): ask for a range",
                )
            blob = await self._stored(fd, part)
            if part and not blob.bytes:  # a part of nothing cannot be told
                return Refused("conflict", f"{quoted(name)} was cut while it was read: try again")
            return Stored(
                blob.id, part.start, blob.bytes, total, self.version, is_part=asked is not None
            )

    async def _stored(self, fd: int, part: range) -> Blob:
        tenant, most = self._session.tenant, max(len(part), 1)
        async with self._blobs.create(tenant, most, kind=SESSION_BLOB, keep_s=KEEP_S) as writer:
            async for piece in _pieces(fd, part.start, len(part)):
                await writer.write(piece)
            return await writer.commit()
        raise AssertionError

    async def _write(self, request: WriteFile) -> SessionAnswer:
        name = request.name
        try:
            async with self._blobs.open(request.blob_id) as fd:
                size = os.fstat(fd).st_size
                pieces = _pieces(fd, 0, size)
                async with contextlib.aclosing(pieces):
                    file = LargeFile(name, request.mode, size, pieces)
                    await self._sandbox.put_file(file, self._session.limits)
        except NotFound:
            return Refused("failed", "the upload is no longer there")
        except FilesDoNotFit:
            most = self._session.limits.disk_bytes
            return Refused(
                "too_large", f"the file does not fit: the workspace may have {most} bytes"
            )
        except PathRefused:
            return Refused("conflict", f"what a job has left is in the way of {quoted(name)}")
        return Done()

    async def _remove(self, name: str) -> SessionAnswer:
        above, _, last = name.rpartition("/")
        try:
            folder = await self._sandbox.open_path(above or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            return _refusal(error, name)
        # The thread closes it: it may go on when nobody waits for it any more.
        removing = THREADS.submit(_remove_in, folder, last)
        try:
            async with fails_after(REMOVE_TIMEOUT_S, "a file was not removed in time"):
                await asyncio.wrap_future(removing)
        except OSError as error:
            return _refusal(error, name)
        finally:
            if removing.cancel():
                os.close(folder)
        return Done()


def _remove_in(folder: int, name: str) -> None:
    """Remove a name in an open folder, and close that. A link is removed itself."""
    try:
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=folder)
    finally:
        os.close(folder)


async def _pieces(fd: int, start: int, size: int) -> AsyncGenerator[bytes, None]:
    """Yield a part of a file, read in threads."""
    at, end = start, start + size
    while at < end:
        copy = os.dup(fd)
        reading = THREADS.submit(_read, copy, min(PIECE_BYTES, end - at), at)
        try:
            piece = await asyncio.wrap_future(reading)
        finally:
            if reading.cancel():  # no thread will close it
                os.close(copy)
        if not piece:
            return
        yield piece
        at += len(piece)


def _read(fd: int, size: int, at: int) -> bytes:
    """Read from a descriptor, and close it: nobody may wait for the thread any more."""
    try:
        return os.pread(fd, size, at)
    finally:
        os.close(fd)


def _kind(mode: int) -> Literal["file", "folder", "link", "other"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _is_text(path: str) -> bool:
    """Return whether a path can be told: any other is of bytes that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(error: OSError, name: str) -> Refused:
    """Return the answer for what the kernel says of a path, which a job may have made so."""
    shown = quoted(name)
    match error.errno:
        case errno.ENOENT:
            return Refused("not_found", f"there is no {shown} in the workspace")
        case errno.EISDIR:
            why = f"{shown} is a folder"
        case errno.ENOTEMPTY:
            why = f"the folder {shown} is not empty"
        case errno.EINVAL | errno.ENXIO:
            why = f"{shown} is not a regular file"
        case errno.ELOOP:
            why = f"{shown} is a link, or behind one: no link is followed"
        case errno.EACCES | errno.EPERM:
            why = f"a job has made {shown}, or a folder of it, inaccessible"
        case _:
            why = f"{shown} cannot be opened: {os.strerror(error.errno or 0)}"
    return Refused("conflict", why)

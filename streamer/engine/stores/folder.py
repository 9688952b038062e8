"""Keep bytes as files in a folder that all machines have mounted.

A file is written under another name, and renamed when it is whole. Names are ids only, and no link
is followed: who may write to the folder is trusted, what is found there is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from streamer.engine.blobfile import BlobFile
from streamer.engine.blobs import Blob
from streamer.engine.diskcalls import DiskCalls
from streamer.engine.stores.address import FolderAddress
from streamer.engine.stores.store import Reach, damaged
from streamer.errors import ConfigError

__all__ = ["FolderStore"]

ID: Final = re.compile("[0-9a-f]{32}")
NEW: Final = ".new"
"""Behind the id of a file that is not whole yet."""
IN_USE: Final = "in-use"
"""The file that says when a space was used last."""

# Not waiting for a writer, should it be a pipe.
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
TOUCH: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

STEP_BYTES: Final = 4 * 1024 * 1024
"""How much is read at a time to compare it with its SHA-256."""

AT_ONCE: Final = 500

Seen = tuple[int, int, int, int]


class FolderStore:
    """See `streamer.engine.stores.store.Store`."""

    def __init__(self, address: FolderAddress) -> None:
        self.space = ""
        self.calls = DiskCalls()
        self.reach = Reach(str(address))
        self._root = address.path
        self._whole: OrderedDict[str, Seen] = OrderedDict()
        """The files that were compared with their SHA-256, as they were then."""

    async def prepare(self) -> None:
        try:
            await self.calls.run(self._prepare)
        except OSError as error:
            raise ConfigError(
                f"engine.blobs_url: {self._root}: {error.strerror}; give a folder that all "
                "services share, and that theirs is the only account to use"
            ) from error

    def _prepare(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._root.mkdir(mode=0o700)
        found = self._root.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"engine.blobs_url: {self._root} is not a folder, or is a link")
        if found.st_uid != os.geteuid():
            raise ConfigError(
                f"engine.blobs_url: {self._root} belongs to the user {found.st_uid}, and the "
                f"service runs as {os.geteuid()}: use the same account at every machine"
            )
        if found.st_mode & 0o077:
            raise ConfigError(
                f"engine.blobs_url: others may use {self._root}: `chmod 700 {self._root}`"
            )

    def path(self, blob_id: str) -> Path:
        assert ID.fullmatch(blob_id)
        assert ID.fullmatch(self.space)
        return self._root / self.space / blob_id

    def writer(self, blob_id: str) -> _Writer:
        return _Writer(self, self.path(blob_id))

    @asynccontextmanager
    async def open(self, blob: Blob, part: range | None, folder: Path | None) -> AsyncIterator[int]:
        with self.reach():
            found = await self.calls.run(partial(self._opened, blob), _close)
        if isinstance(found, str):
            raise damaged(self._root, blob, found)
        fd, seen = found
        try:
            if part is None and self._whole.get(blob.id) != seen:
                await self._compare(fd, blob, seen)
            yield fd
        finally:
            os.close(fd)

    def _opened(self, blob: Blob) -> tuple[int, Seen] | str:
        """Open a file that is there as a whole, or return what is wrong with it."""
        path = self.path(blob.id)
        try:
            fd = _open(path)
        except FileNotFoundError:
            return "has no file"
        except OSError:
            if not path.is_symlink():
                raise
            return "is a link"
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            wrong = "is not a file of this account"
        elif found.st_size != blob.bytes:
            wrong = f"has {found.st_size} bytes instead of {blob.bytes}"
        else:
            return fd, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        os.close(fd)
        return wrong

    async def _compare(self, fd: int, blob: Blob, seen: Seen) -> None:
        digest = hashlib.sha256()
        for at in range(0, blob.bytes, STEP_BYTES):
            with self.reach():
                await self.calls.run(partial(_digest, digest, fd, at))
        if digest.hexdigest() != blob.sha256:
            raise damaged(self._root, blob, "has other bytes than were stored")
        self._whole[blob.id] = seen
        while len(self._whole) > 10_000:
            self._whole.popitem(last=False)

    async def delete(self, blob_ids: Sequence[str]) -> None:
        def delete() -> None:
            (self._root / self.space).stat()  # what is not mounted has no file either
            for blob_id in blob_ids:
                path = self.path(blob_id)
                for name in (path, path.with_suffix(NEW)):
                    name.unlink(missing_ok=True)

        with self.reach():
            await self.calls.run(delete)
        for blob_id in blob_ids:
            self._whole.pop(blob_id, None)

    async def older_than(self, age_s: float) -> AsyncGenerator[Sequence[str], None]:
        with self.reach():
            # Not within the time of one call: there may be very many.
            names = await asyncio.shield(self.calls.start(partial(self._older, age_s)))
        for at in range(0, len(names), AT_ONCE):
            yield names[at : at + AT_ONCE]

    def _older(self, age_s: float) -> list[str]:
        folder = self._root / self.space
        before = self._touch(folder) - age_s
        with os.scandir(folder) as entries:
            return [
                entry.name.removesuffix(NEW)
                for entry in entries
                if ID.fullmatch(entry.name.removesuffix(NEW)) and _modified(entry) < before
            ]

    async def has_space(self, space: str) -> bool:
        with self.reach():
            return await self.calls.run((self._root / space / IN_USE).exists)

    async def touch_space(self, space: str) -> None:
        with self.reach():
            await self.calls.run(partial(self._make, self._root / space))

    def _make(self, folder: Path) -> None:
        if folder.name != self.space:
            folder.mkdir(mode=0o700, exist_ok=True)
        self._touch(folder)

    @staticmethod
    def _touch(folder: Path) -> float:
        """Return the time of the file system, which another machine may have."""
        fd = os.open(folder / IN_USE, TOUCH, 0o600)
        try:
            os.utime(fd)
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)

    async def unused_spaces(self, age_s: float) -> Sequence[str]:
        def unused() -> list[str]:
            before = self._touch(self._root / self.space) - age_s
            return [
                path.name
                for path in self._root.iterdir()
                if ID.fullmatch(path.name) and path.name != self.space and _used(path) < before
            ]

        with self.reach():
            return await self.calls.run(unused)

    async def delete_space(self, space: str) -> None:
        assert ID.fullmatch(space)
        with self.reach():  # rmtree(3) follows no link
            await asyncio.shield(self.calls.start(partial(shutil.rmtree, self._root / space)))

    async def close(self) -> None:
        await self.calls.close()


class _Writer:
    """See `streamer.engine.stores.store.StoreWriter`."""

    def __init__(self, store: FolderStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._file = BlobFile(path.with_suffix(NEW))

    async def begin(self) -> None:
        with self._store.reach():
            await self._store.calls.run(self._file.open)

    async def write(self, data: bytes) -> None:
        with self._store.reach():
            await self._store.calls.run(lambda: self._file.append(data))

    async def commit(self) -> str:
        with self._store.reach():
            return await self._store.calls.run(self._finish)

    def _finish(self) -> str:
        # On the disk before it has its name: what has a record must not become empty when a
        # machine fails. Should the name itself be lost, that is noticed.
        sha256 = self._file.close(synced=True)
        self._file.path.rename(self._path)
        return sha256

    async def abandon(self) -> None:
        calls = self._store.calls
        await calls.ended(calls.start(self._file.discard))


def _open(path: Path) -> int:
    """Open a file. Raises FileNotFoundError if it is missing in a folder that is there."""
    try:
        return os.open(path, READ)
    except FileNotFoundError as error:
        try:
            path.parent.stat()
        except FileNotFoundError:
            raise OSError(errno.ENODEV, "the folder is not mounted") from error
    return os.open(path, READ)  # it may have been mounted in between


def _digest(digest: hashlib._Hash, fd: int, at: int) -> None:
    digest.update(os.pread(fd, STEP_BYTES, at))


def _close(found: tuple[int, Seen] | str) -> None:
    if isinstance(found, tuple):
        os.close(found[0])


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return time.time()  # it was renamed or deleted


def _used(space: Path) -> float:
    try:
        return (space / IN_USE).lstat().st_mtime
    except FileNotFoundError:
        return space.lstat().st_mtime

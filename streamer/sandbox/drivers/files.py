"""Write files into a folder on the host that a job may have filled.

The service, perhaps root, writes them itself: what programs have left there (symbolic and hard
links, pipes) must not lead it elsewhere, nor hold it up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.job import SourceFile
from streamer.model.project import StoredEntry, stored_entries
from streamer.sandbox.shape import FilesDoNotFit, PathRefused

__all__ = ["not_written", "write_files"]

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

CHUNK_BYTES: Final = 256 * 1024

TAKEN: Final = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.ETXTBSY,
    }
)
"""What open(2) says of a link, folder, pipe or file without permissions; and `_check_plain`.

Beside a process that goes on: of a folder that it has just removed, a file that it holds a lease
on, a program that runs.
"""


def not_written(number: int) -> SandboxFailure:
    """Return why a file was not written, by the errno."""
    why = f"a file cannot be written: {os.strerror(number)}"
    return PathRefused(why) if number in TAKEN else SandboxFailure(why)


def write_files(
    folder: Path,
    files: Sequence[SourceFile],
    limit: int,
    given_up: threading.Event,
    project: int | None = None,
) -> None:
    """Write files for the owner of the folder, over those of the project in a descriptor.

    It closes the descriptor. Raises OSError, also if a program has left something else at a file's
    name, and `FilesDoNotFit` if they exceed `limit` bytes. Then, and if they were given up, none of
    them is left, and what they replaced is lost.
    """
    with contextlib.ExitStack() as held:
        if project is not None:
            held.callback(os.close, project)
        root = os.open(folder, FOLDER)
        held.callback(os.close, root)
        unless_all = held.enter_context(contextlib.ExitStack())
        written = _Written(root, limit)
        unless_all.callback(written.remove)
        for name, mode, content in _all_of(files, project):
            if given_up.is_set():
                return
            if content is None:
                written.make_folder(name)
            else:
                written.write(name, mode, content)
        if not given_up.is_set():
            unless_all.pop_all()


def _all_of(
    files: Sequence[SourceFile], project: int | None
) -> Iterator[tuple[str, int, Iterator[bytes] | None]]:
    """Yield name, mode and content of each file; a folder has none."""
    if project is not None:
        for entry in stored_entries(partial(_pread, project)):
            content = _content(project, entry) if entry.is_file else None
            yield entry.name, stat.S_IMODE(entry.mode), content
    for file in files:
        yield file.name, file.mode, iter((file.content,))


def _pread(fd: int, size: int, at: int) -> bytes:
    return os.pread(fd, size, at)


def _content(fd: int, entry: StoredEntry) -> Iterator[bytes]:
    at, end = entry.at, entry.at + entry.bytes
    while at < end:
        chunk = os.pread(fd, min(CHUNK_BYTES, end - at), at)
        if not chunk:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        at += len(chunk)
        yield chunk


class _Written:
    """What was written below an open folder so far, at most `limit` bytes."""

    def __init__(self, root: int, limit: int) -> None:
        self._root = root
        self._owner = os.fstat(root)
        self._left = limit
        self._made: list[str] = []
        """The files, and the folders that were not there before."""

    def write(self, path: str, mode: int, content: Iterator[bytes]) -> None:
        *folders, name = path.split("/")
        above = self._enter(folders)
        try:
            with open(os.open(name, FILE, 0o600, dir_fd=above), "wb") as new:  # noqa: PTH123
                _check_plain(new.fileno(), path)
                self._made.append(path)
                new.truncate()
                new.writelines(content)
                new.flush()
                os.fchmod(new.fileno(), mode)
                # For an ordinary user this changes nothing.
                os.fchown(new.fileno(), self._owner.st_uid, self._owner.st_gid)
                self._left -= os.fstat(new.fileno()).st_blocks * 512
        finally:
            os.close(above)
        if self._left < 0:
            raise FilesDoNotFit

    def make_folder(self, path: str) -> None:
        os.close(self._enter(path.split("/")))

    def remove(self) -> None:
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                _remove(self._root, path)

    def _enter(self, folders: Sequence[str]) -> int:
        """Open a folder, and make those that are missing on the way."""
        above = os.dup(self._root)
        for depth, part in enumerate(folders, 1):
            try:
                inner, is_new = _enter(above, part, self._owner)
            finally:
                os.close(above)
            above = inner
            if is_new:
                self._made.append("/".join(folders[:depth]))
        return above


def _check_plain(fd: int, path: str) -> None:
    """Raise OSError unless it is a file with one name: a second may be a link to anybody's file."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)


def _enter(above: int, name: str, owner: os.stat_result) -> tuple[int, bool]:
    """Open a folder in an open one; make it if it is missing. Return whether it is new, too."""
    made = True
    try:
        os.mkdir(name, 0o755, dir_fd=above)
    except FileExistsError:
        made = False
    inner = os.open(name, FOLDER, dir_fd=above)
    if made:
        os.fchown(inner, owner.st_uid, owner.st_gid)
    return inner, made


def _remove(root: int, path: str) -> None:
    """Remove a file or an empty folder below an open folder."""
    *folders, name = path.split("/")
    above = os.dup(root)
    try:
        for part in folders:
            inner = os.open(part, FOLDER, dir_fd=above)
            os.close(above)
            above = inner
        if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=above)
        else:
            os.unlink(name, dir_fd=above)
    finally:
        os.close(above)

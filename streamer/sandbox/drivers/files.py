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
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.job import SourceFile
from streamer.sandbox.shape import FilesDoNotFit, PathRefused

__all__ = ["not_written", "write_files"]

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

TAKEN: Final = frozenset(
    {errno.EACCES, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
)
"""What open(2) says of a link, folder, pipe or file without permissions; and `_check_plain`."""


def not_written(number: int) -> SandboxFailure:
    """Return why a file was not written, by the errno."""
    why = f"a file cannot be written: {os.strerror(number)}"
    return PathRefused(why) if number in TAKEN else SandboxFailure(why)


def write_files(
    folder: Path, files: Sequence[SourceFile], limit: int, given_up: threading.Event
) -> None:
    """Write files for the owner of the folder.

    Raises OSError, also if a program has left something else at a file's name, and `FilesDoNotFit`
    if they exceed `limit` bytes. Then, and if they were given up, none of them is left, and what
    they replaced is lost.
    """
    taken = 0
    made: list[str] = []
    with contextlib.ExitStack() as held:
        root = os.open(folder, FOLDER)
        held.callback(os.close, root)
        unless_all = held.enter_context(contextlib.ExitStack())
        unless_all.callback(_remove_all, root, made)
        owner = os.fstat(root)
        for file in files:
            if given_up.is_set():
                return
            taken += _write(root, file, owner, made)
            if taken > limit:
                raise FilesDoNotFit
        if not given_up.is_set():
            unless_all.pop_all()


def _remove_all(root: int, made: Sequence[str]) -> None:
    for path in reversed(made):
        with contextlib.suppress(OSError):
            _remove(root, path)


def _write(root: int, file: SourceFile, owner: os.stat_result, made: list[str]) -> int:
    """Write one file below an open folder; return the bytes that it takes on the disk.

    Add the paths of the folders and the file to `made`, except those of folders that existed.
    """
    *folders, name = file.name.split("/")
    above = os.dup(root)
    try:
        for depth, part in enumerate(folders, 1):
            inner, new_folder = _enter(above, part, owner)
            os.close(above)
            above = inner
            if new_folder:
                made.append("/".join(folders[:depth]))
        with open(os.open(name, FILE, 0o600, dir_fd=above), "wb") as new:  # noqa: PTH123
            _check_plain(new.fileno(), file.name)
            made.append(file.name)
            new.truncate()
            new.write(file.content)
            new.flush()
            os.fchmod(new.fileno(), file.mode)
            # For an ordinary user this changes nothing.
            os.fchown(new.fileno(), owner.st_uid, owner.st_gid)
            return os.fstat(new.fileno()).st_blocks * 512
    finally:
        os.close(above)


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

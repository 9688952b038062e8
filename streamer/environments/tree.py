"""What a build has unpacked: made readable for all and writable for the operator only, or refused.

And put in the place of what was there before, in one step.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamer.environments.fault import EnvironmentFault

__all__ = ["fresh_folder", "put_in_place", "relocate", "remove", "settle"]

AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2


@contextlib.contextmanager
def fresh_folder(target: Path) -> Iterator[Path]:
    """Make an empty folder beside `target` for a build; what is left of it goes at the end.

    Raises `EnvironmentFault` if another build of the same runs.
    """
    _passable(target.parent)
    with _alone(target):
        folder = target.parent / f".{target.name}.new"
        shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed
        folder.mkdir()
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[Path]:
    """Hold the lock of what is built in `target`; yield its file, which the holder may remove.

    Raises `EnvironmentFault` if another has it.
    """
    path = target.parent / f".{target.name}.lock"
    lock = _locked(path)
    if lock is None:
        raise EnvironmentFault(f"another build of {target} runs")
    try:
        yield path
    finally:
        os.close(lock)


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds a lock, or None if another does."""
    while True:
        with contextlib.ExitStack() as unless_ours:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(path, flags, 0o600)
            unless_ours.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            # Between these calls its last holder may have removed it: then others lock a new one.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), os.fstat(lock)):
                    unless_ours.pop_all()
                    return lock


def _passable(folder: Path) -> None:
    """Create a folder and its parents so that others may pass through, whatever the umask."""
    if not folder.is_dir():
        _passable(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def settle(folder: Path, interpreter: str) -> None:
    """Set the modes of all that is in a folder.

    A link may lead to a place in the folder, or to the interpreter: what is elsewhere on the host
    is not shown, or is not the operator's. Raises `EnvironmentFault` for that, and for what is
    neither a file nor a folder.
    """
    real = folder.resolve()
    for place, folders, files in os.walk(folder):
        Path(place).chmod(0o755)
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                end = Path(os.path.realpath(path))
                if not end.is_relative_to(real) and str(end) != interpreter:
                    raise EnvironmentFault(f"{path.relative_to(folder)} leads out of the packages")
            elif stat.S_ISREG(mode):
                path.chmod(0o755 if mode & 0o111 else 0o644)
            elif not stat.S_ISDIR(mode):
                raise EnvironmentFault(f"{path.relative_to(folder)} is neither a file nor a folder")


def relocate(scripts: Path, built: Path, target: Path) -> None:
    """Write the final place of an environment into its scripts."""
    before, after = os.fsencode(built), os.fsencode(target)
    for path in (*scripts.iterdir(), scripts.parent / "pyvenv.cfg"):
        if path.is_file() and not path.is_symlink() and before in (text := path.read_bytes()):
            path.write_bytes(text.replace(before, after))


def put_in_place(built: Path, target: Path) -> None:
    """Put a folder in the place of another, or of nothing, in one step.

    What was there stays until the next build: programs that run may still want to import from it.
    """
    previous = target.parent / f".{target.name}.previous"
    shutil.rmtree(previous, ignore_errors=True)
    if not os.path.lexists(target):
        built.rename(target)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    names = (AT_FDCWD, os.fsencode(built), AT_FDCWD, os.fsencode(target), RENAME_EXCHANGE)
    if libc.renameat2(*names) == 0:
        built.rename(previous)
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(target))
    target.rename(previous)  # this file system cannot exchange two names
    built.rename(target)


def remove(target: Path) -> None:
    """Remove an environment and what its builds have left.

    Raises `EnvironmentFault` if a build of it runs.
    """
    with _alone(target) as lock:
        gone = target.parent / f".{target.name}.previous"
        shutil.rmtree(gone, ignore_errors=True)
        target.rename(gone)
        shutil.rmtree(gone)
        lock.unlink()

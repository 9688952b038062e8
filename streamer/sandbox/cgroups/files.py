"""Read and write the files of control groups, and kill and remove whole groups."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["GroupFiles", "clear", "kill", "named", "pids", "write"]

READ_BYTES: Final = 4096
"""The files that are read as a whole are shorter than this."""

CLEAR_S: Final = 2.0
"""How long to wait until killed processes have left their groups."""


def write(path: Path, text: str) -> None:
    """Write to an existing file, in one system call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


class GroupFiles:
    """The files in a group's folder, opened when they are first needed and kept open until `close`.

    Once the group is removed, reading and writing fail with ENODEV, even if somebody has made
    another with its name. The kernel caches the list in an open ``cgroup.procs`` of version 1 for a
    second: use `pids`, or the counter ``pids.current``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._open: dict[str, int] = {}

    def fd(self, name: str) -> int:
        """Return the descriptor of a file, for reading, and for writing if that is allowed.

        Raises FileNotFoundError if the kernel does not have the file.
        """
        found = self._open.get(name)
        if found is None:
            path = f"{self._folder}/{name}"
            try:
                found = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:
                found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[name] = found
        return found

    def read(self, name: str) -> bytes:
        return os.pread(self.fd(name), READ_BYTES, 0)

    def write(self, name: str, text: str) -> None:
        os.pwrite(self.fd(name), text.encode(), 0)

    def number(self, name: str) -> int:
        """Return the number in a file that contains nothing else."""
        return int(self.read(name))

    def counter(self, name: str, key: str) -> int:
        """Return the number after a key in a file of lines ``KEY NUMBER``; 0 without it."""
        return named(self.read(name), key)

    def close(self) -> None:
        """Close them; one that is used again is opened again."""
        while self._open:
            os.close(self._open.popitem()[1])


def named(lines: bytes, name: str) -> int:
    """Return the number after a name in lines ``NAME NUMBER``; 0 without it."""
    found = re.search(rb"^%b (\d+)$" % name.encode(), lines, re.MULTILINE)
    return int(found[1]) if found else 0


def pids(group: Path) -> Sequence[int]:
    """Return the processes of a group, without those of its subgroups; none if it is gone."""
    with contextlib.suppress(OSError):
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    return []


def kill(group: Path, stop_forks: Path | None = None) -> None:
    """Send SIGKILL to every process of a group.

    In version 2 the kernel does it at once, without a race against fork (``cgroup.kill``, Linux
    5.14). Otherwise `stop_forks`, a ``pids.max``, prevents new processes; one that was being
    forked may need a second call.
    """
    try:
        write(group / "cgroup.kill", "1")
    except OSError:
        with contextlib.suppress(OSError):
            write(stop_forks or group / "pids.max", "0")
        for pid in pids(group):
            # The pids were read just now from a group that is ours alone. One that is not
            # in our PID namespace reads as 0, which would mean our own process group.
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def clear(folder: Path) -> bool:
    """Kill what is in a tree of groups and remove it; return whether that was done in time.

    Blocks until the processes are gone: only for the start and the end of a service.
    """
    end = time.monotonic() + CLEAR_S
    while folder.exists():
        for path, _, _ in os.walk(folder, topdown=False):
            group = Path(path)
            kill(group)
            with contextlib.suppress(OSError):
                group.rmdir()
        if time.monotonic() > end:
            return False
        if folder.exists():
            time.sleep(0.005)
    return True

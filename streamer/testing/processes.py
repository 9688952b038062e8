"""See what a job leaves of itself on the host: processes and descriptors of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

__all__ = ["adopt_orphans", "descendants", "descriptors", "reap_adopted"]

PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> None:
    """Have the kernel give this process what its descendants leave behind (prctl(2)).

    So nothing that a job started can hide from `descendants` by losing its parent.
    """
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def reap_adopted() -> None:
    """Reap the dead that `adopt_orphans` has brought here.

    As long as they are not, they count to their user's number of processes, and a later job may have
    the same user. To be called when nothing here waits for a child of its own.
    """
    for task in Path("/proc/self/task").iterdir():
        children = ""
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            children = (task / "children").read_text()
        for child in children.split():
            with contextlib.suppress(OSError):
                state = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()[0]
                if state == "Z":
                    os.waitpid(int(child), os.WNOHANG)


def descendants() -> dict[int, str]:
    """Return the living processes that this one started, directly or not, with their names."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            state, parent = stat.rpartition(")")[2].split()[:2]
            # The first thread may be over, and the others not.
            alive = state not in "ZX" or len(os.listdir(entry / "task")) > 1  # noqa: PTH208 - names
        except OSError:
            continue
        if alive:
            names[int(entry.name)] = stat[stat.index("(") + 1 : stat.rindex(")")]
        children.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    following = [os.getpid()]
    while following:
        for pid in children.get(following.pop(), ()):
            following.append(pid)
            if pid in names:
                found[pid] = names[pid]
    return found


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists
            found[int(entry.name)] = str(entry.readlink())
    return found

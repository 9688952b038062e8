"""See what a job leaves on the host: processes, and descriptors in this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

from streamer.sandbox.pool import Pool

__all__ = ["adopt_orphans", "descendants", "descriptors", "kept_besides", "reap_adopted"]

PR_SET_CHILD_SUBREAPER: Final = 36

OF_GROUPS: Final = ("/sys/fs/cgroup/", "anon_inode:[eventfd]", "anon_inode:[eventpoll]")
"""The targets of descriptors with which the service uses and watches control groups."""


def adopt_orphans() -> None:
    """Make this process the subreaper of its descendants (prctl(2)).

    So no process of a job can hide from `descendants` by losing its parent.
    """
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def reap_adopted() -> None:
    """Reap the dead processes that `adopt_orphans` has brought here.

    Until then they count as processes of their user, which a later job may have too. Must be called
    only while nothing in this process waits for its own children.
    """
    for task in Path("/proc/self/task").iterdir():
        children = ""
        with contextlib.suppress(FileNotFoundError):  # the thread has ended meanwhile
            children = (task / "children").read_text()
        for child in children.split():
            with contextlib.suppress(OSError):
                state = Path("/proc", child, "stat").read_text().rpartition(")")[2].split()[0]
                if state == "Z":
                    os.waitpid(int(child), os.WNOHANG)


def descendants() -> dict[int, str]:
    """Return the pids and names of the living processes that descend from this one."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            state, parent = stat.rpartition(")")[2].split()[:2]
            # The first thread may have ended before the others.
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
    """Return this process's open descriptors and their targets.

    Without those of control groups, which the service keeps for later sandboxes.
    """
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this listing
            target = str(entry.readlink())
            if not target.startswith(OF_GROUPS):
                found[int(entry.name)] = target
    return found


def kept_besides(pool: Pool | None) -> tuple[dict[int, str], dict[int, str]]:
    """Return `descendants` and `descriptors` without those of templates, which outlive jobs."""
    templates = None if pool is None else pool.templates
    pids = frozenset() if templates is None else templates.pids
    fds = frozenset() if templates is None else templates.descriptors
    return (
        {pid: name for pid, name in descendants().items() if pid not in pids},
        {fd: name for fd, name in descriptors().items() if fd not in fds},
    )

"""The groups of version 2: a sandbox has one, below a group delegated to the service."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES, Cgroup
from streamer.sandbox.cgroups.files import counter, named, number, pids, write

__all__ = ["CONTROLLERS", "MAIN", "CgroupV2", "hand_down", "hands_down", "ownership", "share"]

CONTROLLERS: Final = ("memory", "pids")
"""The controllers that are needed; CPU time is counted in every group."""

SHARING: Final = "cpu"
"""With this controller each job gets an equal share of the processors, whatever its number of
processes: the default weight of a group is 100."""

MAIN: Final = "main"
"""The group below the delegated one into which the service itself moves."""


@dataclass(frozen=True, slots=True)
class CgroupV2(Cgroup):
    counted_first: ClassVar[bool] = True

    @property
    def _folder(self) -> Path:
        return self.folders[0]

    @property
    def entry_files(self) -> tuple[str, ...]:
        """Its ``cgroup.procs``; version 2 has nothing faster."""
        return (str(self._folder / "cgroup.procs"),)

    def make(self) -> None:
        """Create the folder, and let the kernel kill the group as a whole at its memory limit.

        Otherwise it kills one process, and the others would run on until we are notified, which
        the kernel delays by up to 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV).
        """
        self._folder.mkdir()
        write(self._folder / "memory.oom.group", "1")

    def set_limits(self, limits: Limits) -> bool:
        """Set the limits, without swap. If the group uses more already, the kernel kills."""
        write(self._folder / "pids.max", str(limits.processes + OVERHEAD_PROCESSES))
        with contextlib.suppress(FileNotFoundError):  # swap may not be accounted
            write(self._folder / "memory.swap.max", "0")
        write(self._folder / "memory.max", str(limits.memory_bytes))
        return True

    def memory_bytes(self) -> int:
        return number(self._folder / "memory.current")

    def cpu_time_us(self) -> int:
        return counter(self._folder / "cpu.stat", "usage_usec")

    def peak_memory_bytes(self) -> int | None:
        """Return ``memory.peak`` (since Linux 5.19)."""
        with contextlib.suppress(FileNotFoundError):
            return number(self._folder / "memory.peak")
        return None

    def oom_kills(self) -> int:
        return counter(self._folder / "memory.events", "oom_kill")

    @contextmanager
    def watching(self, on_oom: Callable[[], None]) -> Iterator[None]:
        """Watch ``memory.events`` with a separate epoll.

        The file is always readable; a change is an exceptional condition until the file is read
        again. It also changes for less serious events.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            events = os.open(self._folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, events)
            poll = stack.enter_context(select.epoll())
            poll.register(events, select.EPOLLPRI)

            kills = 0

            def changed() -> None:
                nonlocal kills
                found = named(os.pread(events, 4096, 0), "oom_kill")
                if found > kills:
                    kills = found
                    on_oom()

            loop.add_reader(poll, changed)
            stack.callback(loop.remove_reader, poll)
            yield


def ownership(folder: Path) -> Literal["delegated", "systemd's", "unmarked"]:
    """Tell from systemd's marks (extended attributes) who may divide a group.

    Root could divide any. But systemd stops a unit that is not delegated as soon as the kernel
    kills anything below it for memory (``OOMPolicy=stop``, systemd.service(5)): the first job over
    its limit would stop the service. Without marks, as in some containers and for ordinary users
    before systemd 251, the permissions decide.
    """
    try:
        marks = set(os.listxattr(folder))
    except OSError:
        return "unmarked"
    if marks & {"user.delegate", "trusted.delegate"}:
        return "delegated"
    return "systemd's" if marks & {"user.invocation_id", "trusted.invocation_id"} else "unmarked"


def hands_down(folder: Path, controllers: Sequence[str] = CONTROLLERS) -> bool:
    """Return whether the subgroups of a group have the controllers."""
    return set(controllers) <= set((folder / "cgroup.subtree_control").read_text().split())


def hand_down(folder: Path, controllers: Sequence[str] = CONTROLLERS) -> None:
    """Enable a group's controllers for its subgroups.

    Such a group must not have processes itself (cgroup-v2.rst, "No Internal Process Constraint"),
    so its processes move into a subgroup `MAIN`: this process, and in a delegated group the shell
    that started it. Raises OSError if that is not allowed.
    """
    if hands_down(folder, controllers):
        return
    inside = pids(folder)
    if inside:
        if set(inside) != {os.getpid()} and ownership(folder) != "delegated":
            raise PermissionError(errno.EPERM, f"other processes are in {folder}")
        main = folder / MAIN
        main.mkdir(exist_ok=True)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                write(main / "cgroup.procs", str(pid))
    write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))


def share(folder: Path) -> None:
    """Enable the controller `SHARING` for the subgroups of a group, if it has that."""
    with contextlib.suppress(OSError):  # the kernel refuses it if there are real-time processes
        if SHARING in (folder / "cgroup.controllers").read_text().split():
            write(folder / "cgroup.subtree_control", f"+{SHARING}")

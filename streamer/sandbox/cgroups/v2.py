"""The groups of version 2: a sandbox has one, below a group delegated to the service."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES, Cgroup
from streamer.sandbox.cgroups.files import GroupFiles, named, pids, write

__all__ = [
    "CONTROLLERS",
    "MAIN",
    "CgroupV2",
    "admit",
    "hand_down",
    "hands_down",
    "ownership",
    "share",
    "weigh",
]

CONTROLLERS: Final = ("memory", "pids")
"""The controllers that are needed; CPU time is counted in every group."""

SHARING: Final = "cpu"
"""With this controller each job gets an equal share of the processors, whatever its number of
processes: the default weight of a group is 100."""

MAIN: Final = "main"
"""The group below the delegated one into which the service itself moves."""


class CgroupV2(Cgroup):
    counted_first: ClassVar[bool] = True

    def __init__(self, folders: tuple[Path, ...], owner: int | None = None) -> None:
        """`owner` is a user whose processes may clone others into the group; None for this one."""
        super().__init__(folders)
        self._owner = owner
        (self._group,) = self._files
        self._events = -1
        self._kills_seen = 0

    @property
    def entry(self) -> tuple[str, ...]:
        """Be started in the folder: to enter by ``cgroup.procs`` takes 12 ms (an RCU period).

        After a write to ``cgroup.kill`` some kernels (6.1, 6.18) kill whatever is started in the
        group from outside: they compare how often the group and that of the parent were killed.
        """
        if self._killed:
            return (f"--cgroup={self.folders[0]}/cgroup.procs",)
        return (f"--start-in={self.folders[0]}",)

    @property
    def clone_folder(self) -> str:
        """The group, for the reason that `entry` has, and with its exception."""
        return "" if self._killed else str(self.folders[0])

    def entry_fds(self) -> Sequence[int]:
        return [self._files[0].fd("cgroup.procs")]

    def make(self) -> None:
        """Make the folder, and watch ``memory.events`` with a separate epoll.

        The kernel shall kill the group as a whole at its memory limit. Otherwise it kills one
        process, and the others would run on until we are notified, which the kernel delays by up
        to 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV).
        """
        folder = self.folders[0]
        folder.mkdir()
        self._group.write("memory.oom.group", "1")
        if self._owner is not None:
            admit(folder, self._owner)
        loop = asyncio.get_running_loop()
        # The file is always readable; a change is an exceptional condition until this descriptor is
        # read again. It also changes for less serious events.
        self._events = os.open(folder / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self._watch.callback(os.close, self._events)
        poll = self._watch.enter_context(select.epoll())
        poll.register(self._events, select.EPOLLPRI)
        loop.add_reader(poll, self._changed)
        self._watch.callback(loop.remove_reader, poll)

    def _changed(self) -> None:
        kills = named(os.pread(self._events, 4096, 0), "oom_kill")
        if kills > self._kills_seen:
            self._kills_seen = kills
            self._reached_limit()

    def set_limits(self, files: Sequence[GroupFiles], limits: Limits) -> bool:
        """Set the limits, without swap. If the group uses more already, the kernel kills."""
        (group,) = files
        group.write("pids.max", str(limits.processes + OVERHEAD_PROCESSES))
        with contextlib.suppress(FileNotFoundError):  # swap may not be accounted
            group.write("memory.swap.max", "0")
        group.write("memory.max", str(limits.memory_bytes))
        return True

    def fits(self, files: Sequence[GroupFiles], limits: Limits) -> bool:
        """Tell before the limit is set: the kernel would kill all, what a session keeps too."""
        (group,) = files
        return _needed_bytes(group, "slab_reclaimable") <= limits.memory_bytes

    def unlimit(self) -> None:
        for name in ("pids.max", "memory.max"):
            self._group.write(name, "max")

    def memory_bytes(self) -> int:
        return self._group.number("memory.current")

    def needed_bytes(self) -> int:
        return _needed_bytes(self._group)

    def total_cpu_time_us(self) -> int:
        return self._group.counter("cpu.stat", "usage_usec")

    def peak_memory_bytes(self) -> int | None:
        """Return ``memory.peak`` (since Linux 5.19)."""
        with contextlib.suppress(FileNotFoundError):
            return self._group.number("memory.peak")
        return None

    def oom_kills(self) -> int:
        return self._group.counter("memory.events", "oom_kill")

    def processes(self) -> int:
        return self._group.number("pids.current")

    def empty(self) -> bool:
        """Return whether every process has ended; ``cgroup.procs`` omits those that are ending."""
        with contextlib.suppress(OSError):  # it is gone
            return not self._group.counter("cgroup.events", "populated")
        return True

    def unaltered(self) -> bool:
        return self._group.number("memory.oom.group") == 1

    def forget(self) -> bool:
        """Forget the peak, for our own descriptor, which is possible since Linux 6.12."""
        self._kills_seen = self.oom_kills()
        try:
            self._group.write("memory.peak", "reset")
        except FileNotFoundError:
            pass  # there is none to tell
        except OSError:
            return False
        return True


def _needed_bytes(group: GroupFiles, *dropped: str) -> int:
    """Return a group's memory without its page cache, and without what else the kernel can drop."""
    lines = group.read("memory.stat")
    cache = named(lines, "file") - named(lines, "shmem")
    cache += sum(named(lines, name) for name in dropped)
    return max(group.number("memory.current") - cache, 0)


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


def admit(folder: Path, uid: int) -> None:
    """Let a user's processes move others, and clone, into a group; all else stays ours.

    It must also be admitted to the nearest common ancestor of the group and that which they leave
    (cgroup-v2.rst, "Delegation Containment").
    """
    os.chown(folder / "cgroup.procs", uid, -1)


def share(folder: Path) -> None:
    """Enable the controller `SHARING` for the subgroups of a group, if it has that."""
    with contextlib.suppress(OSError):  # the kernel refuses it if there are real-time processes
        if SHARING in (folder / "cgroup.controllers").read_text().split():
            write(folder / "cgroup.subtree_control", f"+{SHARING}")


def weigh(root: Path, weight: int) -> None:
    """Give all jobs together a weight; 100 is that of the service's own group."""
    with contextlib.suppress(FileNotFoundError):  # the controller is not enabled
        write(root / "cpu.weight", str(weight))

"""Bound a job's memory and number of processes by control groups, where there are any.

Plain file I/O on cgroupfs: cgroups(7), the kernel's cgroup-v2.rst and cgroup-v1/*.rst. Two
shapes are supported. Version 1: a root service makes groups below its own in the
hierarchies ``memory`` and ``pids``. Version 2: the service's own group must be
delegated to it (a systemd unit or scope with ``Delegate=yes``) with those controllers.

The process that starts a sandbox puts itself into the job's groups before it executes
anything (``streamer-init enter --cgroup``): so nothing of the job was ever outside. On
version 1 it writes ``0`` to ``tasks``; ``cgroup.procs`` waits 10 ms for an RCU grace period.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import select
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from streamer.jobs import Limits

__all__ = ["CgroupTree", "JobCgroup", "Level", "cgroup_tree"]

log: Final = logging.getLogger(__name__)

Level = Literal["cgroup-v1", "cgroup-v2"]

PREFIX: Final = "streamer-"
MAIN: Final = "main"
CONTROLLERS: Final = ("memory", "pids")
V1_HIERARCHIES: Final = (*CONTROLLERS, "cpuacct")
"""In this order; version 2 accounts for CPU time in every group."""
SHARING: Final = "cpu"
"""Where there is this controller too, each job gets an equal share of the processors, however
many processes it has: a group's weight is `V1_SHARES` (version 2: 100) unless it is set."""
V1_SHARES: Final = 1024
REMOVE_TRIES: Final = 50
OVERHEAD_PROCESSES: Final = 6
"""The wrapper's own processes, which are in the job's group too: firejail has the most."""


@dataclass(frozen=True, slots=True)
class CgroupTree:
    """The service's group in each hierarchy, below which each job has its own."""

    level: Level
    roots: tuple[Path, ...]
    """Version 1: one for each of `V1_HIERARCHIES`, in order, and perhaps one for `SHARING`;
    version 2: one."""

    @asynccontextmanager
    async def job(self, job_id: str, on_oom: Callable[[], None]) -> AsyncIterator[JobCgroup]:
        """Make the groups of one job; `on_oom` is called when the kernel kills for memory.

        To be left when nothing of the job is alive.
        """
        folders = tuple(root / job_id for root in self.roots)
        try:
            for folder in folders:
                folder.mkdir()
            cgroup = JobCgroup(self.level, folders)
            with cgroup.watching(on_oom):
                yield cgroup
        finally:
            for folder in folders:
                await _remove(folder)


@dataclass(frozen=True, slots=True)
class JobCgroup:
    """The groups of one job."""

    level: Level
    folders: tuple[Path, ...]

    @property
    def entrances(self) -> tuple[str, ...]:
        """The files to which a process writes ``0`` to enter."""
        name = "tasks" if self.level == "cgroup-v1" else "cgroup.procs"
        return tuple(str(folder / name) for folder in self.folders)

    @property
    def _memory(self) -> Path:
        return self.folders[0]

    def set_limits(self, limits: Limits) -> None:
        """Set the limits of the step that comes next."""
        memory = str(limits.memory_bytes)
        pids = self.folders[CONTROLLERS.index("pids") if self.level == "cgroup-v1" else 0]
        _write(pids / "pids.max", str(limits.processes + OVERHEAD_PROCESSES))
        if self.level == "cgroup-v2":
            _write(self._memory / "memory.max", memory)
            with contextlib.suppress(FileNotFoundError):  # where swap is not accounted
                _write(self._memory / "memory.swap.max", "0")
            return
        # With swap the limit would be more; the sum may never be below the part, so the
        # order depends on whether the limit grows.
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        present = [name for name in names if (self._memory / name).exists()]
        try:
            for name in present:
                _write(self._memory / name, memory)
        except OSError:
            for name in reversed(present):
                _write(self._memory / name, memory)

    def cpu_time_us(self) -> int:
        """Return the CPU time of everything that was ever in it, in microseconds.

        Complete where the rusage of processes is not: a child whose parent ignores SIGCHLD
        is reaped by the kernel and counted to nobody (wait(2), notes).
        """
        if self.level == "cgroup-v1":
            return int((self.folders[2] / "cpuacct.usage").read_text()) // 1000
        found = re.search(
            r"^usage_usec (\d+)$", (self._memory / "cpu.stat").read_text(), re.MULTILINE
        )
        return int(found[1]) if found else 0

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for the memory limit."""
        name = "memory.oom_control" if self.level == "cgroup-v1" else "memory.events"
        found = re.search(r"^oom_kill (\d+)$", (self._memory / name).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    @contextmanager
    def watching(self, on_oom: Callable[[], None]) -> Iterator[None]:
        """Call `on_oom` on the loop when the kernel runs into the memory limit."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            name = "memory.oom_control" if self.level == "cgroup-v1" else "memory.events"
            control = os.open(self._memory / name, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, control)
            if self.level == "cgroup-v1":
                # An eventfd registered for the file (cgroup-v1/memory.rst, 10): it tells of
                # every run into the limit that nothing but a kill could resolve.
                event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                stack.callback(os.close, event)
                _write(self._memory / "cgroup.event_control", f"{event} {control}")
            else:
                # The file is always readable; a change of it is an exceptional condition,
                # until it is read again. It tells of lesser events too.
                poll = stack.enter_context(select.epoll())
                poll.register(control, select.EPOLLPRI)
                event = poll.fileno()

            def changed() -> None:
                if self.level == "cgroup-v2" and b"oom_kill 0" in os.pread(control, 4096, 0):
                    return
                loop.remove_reader(event)
                on_oom()

            loop.add_reader(event, changed)
            stack.callback(loop.remove_reader, event)
            yield


@contextmanager
def cgroup_tree(configured: str) -> Iterator[CgroupTree | None]:
    """Make the service's groups, or yield None where there is no way to.

    `configured` is ``auto``, ``off``, or the path of a delegated group of version 2.
    What killed services left behind is removed first. A group in use is held by a lock
    on its folder, which ends with its service.
    """
    with contextlib.ExitStack() as stack:
        tree = None
        if configured != "off":
            for level, parents in _candidates(configured):
                name = PREFIX + secrets.token_hex(6)
                try:
                    for parent in parents:
                        _sweep(parent)
                    if level == "cgroup-v2":
                        _hand_down(parents[0], CONTROLLERS)
                    roots = tuple(
                        stack.enter_context(_service_group(parent / name)) for parent in parents
                    )
                    for root in roots:
                        # All jobs together against the rest of the host: as one process for
                        # each processor, and not as one alone.
                        with contextlib.suppress(FileNotFoundError):
                            _write(root / "cpu.shares", str(V1_SHARES * (os.cpu_count() or 1)))
                    if level == "cgroup-v2":
                        _hand_down(roots[0], CONTROLLERS)
                        for folder in (*parents, *roots):
                            _hand_down_sharing(folder)
                except OSError as error:
                    log.debug("no %s: %s", level, error)
                    stack.close()
                    continue
                tree = CgroupTree(level, roots)
                break
        yield tree


def _candidates(configured: str) -> Iterator[tuple[Level, tuple[Path, ...]]]:
    """Yield where groups could be made, best first."""
    if configured not in ("auto", "off"):
        yield "cgroup-v2", (Path(configured),)
        return
    own = dict(_own_groups())
    mounts = dict(_mounts())
    if "" in own and "" in mounts:
        folder = mounts[""] / own[""].lstrip("/")
        with contextlib.suppress(OSError):
            if folder.name == MAIN and _hands_down(folder.parent, CONTROLLERS):
                folder = folder.parent  # this process has moved before
            if set(CONTROLLERS) <= set((folder / "cgroup.controllers").read_text().split()):
                yield "cgroup-v2", (folder,)
    if all(name in own and name in mounts for name in V1_HIERARCHIES):
        names = [name for name in (*V1_HIERARCHIES, SHARING) if name in own and name in mounts]
        folders = dict.fromkeys(mounts[name] / own[name].lstrip("/") for name in names)
        yield "cgroup-v1", tuple(folders)  # cpu and cpuacct are one folder on most hosts


def _own_groups() -> Iterator[tuple[str, str]]:
    """Yield (controller, path) of this process's groups; ``""`` is version 2 (cgroups(7))."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts() -> Iterator[tuple[str, Path]]:
    """Yield (controller, mount point) of the mounted hierarchies (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split(" ")[4])
        if kind == "cgroup2":
            yield "", place
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, place


def _hands_down(folder: Path, controllers: Sequence[str]) -> bool:
    return set(controllers) <= set((folder / "cgroup.subtree_control").read_text().split())


def _hand_down(folder: Path, controllers: Sequence[str]) -> None:
    """Give the groups below a group of version 2 its controllers.

    A group that does so may hold no process itself (cgroup-v2.rst, "No Internal Process
    Constraint"), so what is in it, if that is us alone, moves into a group `MAIN` below it.
    Raises OSError where that is not ours to do.
    """
    control = folder / "cgroup.subtree_control"
    if _hands_down(folder, controllers):
        return
    inside = _pids(folder)
    if inside:
        if set(inside) != {os.getpid()}:
            raise PermissionError(errno.EPERM, f"other processes are in {folder}")
        main = folder / MAIN
        main.mkdir(exist_ok=True)
        _write(main / "cgroup.procs", str(os.getpid()))
    _write(control, " ".join(f"+{name}" for name in controllers))


def _hand_down_sharing(folder: Path) -> None:
    """Give the groups below a group of version 2 the controller `SHARING`, if it has that."""
    with contextlib.suppress(OSError):  # the kernel refuses it beside real-time processes
        if SHARING in (folder / "cgroup.controllers").read_text().split():
            _write(folder / "cgroup.subtree_control", f"+{SHARING}")


@contextmanager
def _service_group(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        _clear(folder)
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove the groups of services that are gone, and whatever still runs in them."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
        log.warning("removing what a killed service left: %s", folder.name)
        _clear(folder)


def _clear(folder: Path) -> None:
    """Kill what is in a tree of groups and remove it."""
    for path, _, _ in os.walk(folder, topdown=False):
        group = Path(path)
        for pid in _pids(group):
            # From our own group's list, read just now; a group is ours alone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        with contextlib.suppress(OSError):
            group.rmdir()


def _pids(group: Path) -> Sequence[int]:
    with contextlib.suppress(OSError):
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    return []


async def _remove(folder: Path) -> None:
    """Remove a group; its last process may take a moment to leave after it was reaped."""
    for _ in range(REMOVE_TRIES):
        try:
            os.rmdir(folder)  # noqa: PTH106 - not blocking: a system call without I/O
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            for pid in _pids(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            await asyncio.sleep(0.01)
        else:
            return
    log.error("the cgroup %s cannot be removed: something in it does not end", folder)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)

"""The groups of version 1: a sandbox has one in each hierarchy; only root may create them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES, Cgroup
from streamer.sandbox.cgroups.files import GroupFiles, named, write

__all__ = ["HIERARCHIES", "SHARING", "CgroupV1", "weigh"]

HIERARCHIES: Final = ("memory", "pids", "cpuacct")
"""In the order of `CgroupV1.folders`."""

SHARING: Final = "cpu"
"""With this hierarchy each job gets an equal share of the processors, whatever its number of
processes: the default weight of a group is `SHARES`."""

SHARES: Final = 1024

MEMORY_LIMITS: Final = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")


def weigh(root: Path, weight: int) -> None:
    """Give all jobs together a weight, for each processor; 100 is that of one process.

    A group's shares are divided among the processors on which it runs.
    """
    with contextlib.suppress(FileNotFoundError):  # this is another hierarchy
        write(root / "cpu.shares", str(SHARES * weight * (os.cpu_count() or 1) // 100))


class CgroupV1(Cgroup):
    """A sandbox's groups in `HIERARCHIES`, and perhaps one in `SHARING`."""

    counted_first: ClassVar[bool] = False

    def __init__(self, folders: tuple[Path, ...]) -> None:
        super().__init__(folders)
        self._memory, self._pids, self._cpu, *self._sharing = self._files
        self._event = -1

    @property
    def entry(self) -> tuple[str, ...]:
        """Write to its ``tasks``: ``cgroup.procs`` waits 10 ms for an RCU grace period."""
        return tuple(f"--cgroup={folder}/tasks" for folder in self.folders)

    def entry_fds(self) -> Sequence[int]:
        return [files.fd("tasks") for files in self._files]

    @property
    def _pids_max(self) -> Path:
        return self.folders[1] / "pids.max"

    def make(self) -> None:
        """Make the folders, and register an eventfd for the limit (cgroup-v1/memory.rst, 10).

        It is notified each time the group is at its limit and only a kill can free memory, before
        that kill.
        """
        for folder in self.folders:
            folder.mkdir()
        loop = asyncio.get_running_loop()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch.callback(os.close, self._event)
        control = self._memory.fd("memory.oom_control")
        write(self.folders[0] / "cgroup.event_control", f"{self._event} {control}")
        loop.add_reader(self._event, self._notified)
        self._watch.callback(loop.remove_reader, self._event)

    def _notified(self) -> None:
        os.eventfd_read(self._event)
        self._reached_limit()

    def set_limits(self, files: Sequence[GroupFiles], limits: Limits) -> bool:
        """Set the limits; that for memory includes swap."""
        memory, processes = files[:2]
        processes.write("pids.max", str(limits.processes + OVERHEAD_PROCESSES))
        # The sum must never be below the part, so the order depends on whether the limit grows.
        for order in (MEMORY_LIMITS, MEMORY_LIMITS[::-1]):
            with contextlib.suppress(OSError):
                _set_memory(memory, order, str(limits.memory_bytes))
                return True
        return False

    def unlimit(self) -> None:
        self._pids.write("pids.max", "max")
        _set_memory(self._memory, MEMORY_LIMITS[::-1], "-1")

    def memory_bytes(self) -> int:
        return self._memory.number("memory.usage_in_bytes")

    def needed_bytes(self) -> int:
        lines = self._memory.read("memory.stat")
        cache = named(lines, "total_cache") - named(lines, "total_shmem")
        return max(self.memory_bytes() - cache, 0)

    def total_cpu_time_us(self) -> int:
        return self._cpu.number("cpuacct.usage") // 1000

    def peak_memory_bytes(self) -> int | None:
        return self._memory.number("memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        return self._memory.counter("memory.oom_control", "oom_kill")

    def processes(self) -> int:
        return self._pids.number("pids.current")

    def unaltered(self) -> bool:
        killing = self._memory.counter("memory.oom_control", "oom_kill_disable") == 0
        return killing and all(files.number("cpu.shares") == SHARES for files in self._sharing)

    def forget(self) -> bool:
        self._memory.write("memory.max_usage_in_bytes", "0")
        with contextlib.suppress(BlockingIOError):  # a notice that the loop has not read yet
            os.eventfd_read(self._event)
        return True


def _set_memory(memory: GroupFiles, order: Sequence[str], text: str) -> None:
    for name in order:
        # Without the second, swap would come on top; it exists if swap is accounted.
        with contextlib.suppress(FileNotFoundError):
            memory.write(name, text)

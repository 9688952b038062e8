"""The groups of version 1: a sandbox has one in each hierarchy; only root may create them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES, Cgroup
from streamer.sandbox.cgroups.files import counter, number, write

__all__ = ["HIERARCHIES", "SHARING", "CgroupV1", "weigh"]

HIERARCHIES: Final = ("memory", "pids", "cpuacct")
"""In the order of `CgroupV1.folders`."""

SHARING: Final = "cpu"
"""With this hierarchy each job gets an equal share of the processors, whatever its number of
processes: the default weight of a group is `SHARES`."""

SHARES: Final = 1024


def weigh(root: Path) -> None:
    """Give all jobs together the weight of one process for each processor, not of one process."""
    with contextlib.suppress(FileNotFoundError):  # this is another hierarchy
        write(root / "cpu.shares", str(SHARES * (os.cpu_count() or 1)))


@dataclass(frozen=True, slots=True)
class CgroupV1(Cgroup):
    """A sandbox's groups in `HIERARCHIES`, and perhaps one in `SHARING`."""

    counted_first: ClassVar[bool] = False

    @property
    def entry_files(self) -> tuple[str, ...]:
        """Its ``tasks``: ``cgroup.procs`` waits 10 ms for an RCU grace period."""
        return tuple(str(folder / "tasks") for folder in self.folders)

    @property
    def _pids_max(self) -> Path:
        return self.folders[1] / "pids.max"

    def make(self) -> None:
        for folder in self.folders:
            folder.mkdir()

    def set_limits(self, limits: Limits) -> bool:
        """Set the limits; that for memory includes swap."""
        write(self._pids_max, str(limits.processes + OVERHEAD_PROCESSES))
        # Without the second limit swap would come on top. The sum must never be below the part,
        # so the order depends on whether the limit grows.
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        present = [path for name in names if (path := self.folders[0] / name).exists()]
        for order in (present, present[::-1]):
            with contextlib.suppress(OSError):
                for path in order:
                    write(path, str(limits.memory_bytes))
                return True
        return False

    def memory_bytes(self) -> int:
        return number(self.folders[0] / "memory.usage_in_bytes")

    def cpu_time_us(self) -> int:
        return number(self.folders[2] / "cpuacct.usage") // 1000

    def peak_memory_bytes(self) -> int | None:
        return number(self.folders[0] / "memory.max_usage_in_bytes")

    def oom_kills(self) -> int:
        return counter(self.folders[0] / "memory.oom_control", "oom_kill")

    @contextmanager
    def watching(self, on_oom: Callable[[], None]) -> Iterator[None]:
        """Watch an eventfd registered for ``memory.oom_control`` (cgroup-v1/memory.rst, 10).

        It is notified each time the group is at its limit and only a kill can free memory, before
        that kill.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            control = os.open(self.folders[0] / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, control)
            event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, event)
            write(self.folders[0] / "cgroup.event_control", f"{event} {control}")

            def happened() -> None:
                os.eventfd_read(event)
                on_oom()

            loop.add_reader(event, happened)
            stack.callback(loop.remove_reader, event)
            yield

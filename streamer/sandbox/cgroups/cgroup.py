"""Say what the group of a sandbox does, whatever the version."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from streamer.model.job import Limits
from streamer.sandbox.cgroups.files import kill, pids

__all__ = ["OVERHEAD_PROCESSES", "Cgroup", "Level"]

log: Final = logging.getLogger(__name__)

Level = Literal["cgroup-v1", "cgroup-v2"]

OVERHEAD_PROCESSES: Final = 6
"""The wrapper's own processes, which are in the group too: firejail has the most."""

CLEAR_TRIES: Final = 500
CLEAR_PAUSE_S: Final = 0.01
THREADS: Final = ThreadPoolExecutor(4, "streamer-cgroups")
"""For limits that the kernel takes its time to set."""
SLOW_PAUSE_S: Final = 1.0
"""Between the tries once something has resisted for long."""


@dataclass(frozen=True, slots=True)
class Cgroup(ABC):
    """The group of one sandbox: one folder, or in version 1 one in each hierarchy."""

    folders: tuple[Path, ...]

    @property
    @abstractmethod
    def entrances(self) -> tuple[str, ...]:
        """The files to which a process writes ``0`` to enter."""

    @abstractmethod
    def make(self) -> None:
        """Make the group."""

    @abstractmethod
    def set_limits(self, limits: Limits) -> bool:
        """Set the limits of the run that comes next, and return whether that can be.

        It cannot where the sandbox already has more memory than that: files in a tmpfs are memory.
        """

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return what is charged to it now."""

    @abstractmethod
    def cpu_time_us(self) -> int:
        """Return the CPU time of everything that was ever in it, in microseconds.

        Complete where the rusage of processes is not: a child whose parent ignores SIGCHLD
        is reaped by the kernel and counted to nobody (wait(2), notes).
        """

    @abstractmethod
    def peak_memory_bytes(self) -> int | None:
        """Return the most that was charged to it at a time, page cache included.

        None where the kernel does not tell.
        """

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for the memory limit."""

    @abstractmethod
    def watching(self, on_oom: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `on_oom` on the loop each time the kernel runs into the memory limit."""

    async def limit(self, limits: Limits) -> bool:
        """Set the limits of the run that comes next; see `set_limits`."""
        # Where there is more than that already, the kernel reclaims, or kills, before it returns
        # from the write. Far below, so that nothing comes up to it meanwhile.
        if self.memory_bytes() <= limits.memory_bytes // 2:
            return self.set_limits(limits)
        return await asyncio.get_running_loop().run_in_executor(THREADS, self.set_limits, limits)

    @property
    def _pids_max(self) -> Path:
        return self.folders[0] / "pids.max"

    def kill(self) -> None:
        """Kill everything in it; without waiting for the end of that."""
        kill(self.folders[0], self._pids_max)

    async def clear(self) -> bool:
        """Kill everything in it and wait until nothing is; False if that takes too long."""
        for _ in range(CLEAR_TRIES):
            if not pids(self.folders[0]):
                return True
            self.kill()
            await asyncio.sleep(CLEAR_PAUSE_S)
        return False

    async def remove(self) -> None:
        """Remove it, however long that takes. Whatever is still in it is killed.

        What resists SIGKILL belongs to the sandbox still: whoever waits decides for how long.
        """
        for folder in self.folders:
            tries = 0
            while not _removed(folder):
                # Its last process may take a moment to leave after it was reaped.
                tries += 1
                if tries == CLEAR_TRIES:
                    log.error("the cgroup %s cannot be removed: something in it lives", folder)
                self.kill()
                await asyncio.sleep(CLEAR_PAUSE_S if tries < CLEAR_TRIES else SLOW_PAUSE_S)


def _removed(folder: Path) -> bool:
    """Remove a group unless there is something in it."""
    try:
        os.rmdir(folder)  # noqa: PTH106 - as it is called in a coroutine: not blocking
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True

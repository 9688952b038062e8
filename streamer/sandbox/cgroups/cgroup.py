"""The control group of a sandbox: what both versions have in common."""

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
from typing import ClassVar, Final, Literal

from streamer.model.job import Limits
from streamer.sandbox.cgroups.files import kill, pids

__all__ = ["OVERHEAD_PROCESSES", "Cgroup", "Level"]

log: Final = logging.getLogger(__name__)

Level = Literal["cgroup-v1", "cgroup-v2"]

OVERHEAD_PROCESSES: Final = 6
"""Processes of the wrapper, which are in the group too; firejail has the most."""

CLEAR_TRIES: Final = 500
CLEAR_PAUSE_S: Final = 0.01
THREADS: Final = ThreadPoolExecutor(4, "streamer-cgroups")
"""For setting limits, which may take the kernel long."""
SLOW_PAUSE_S: Final = 1.0
"""Between attempts to remove a group once that has failed for long."""


@dataclass(frozen=True, slots=True)
class Cgroup(ABC):
    """The group of one sandbox: one folder, or in version 1 one in each hierarchy."""

    folders: tuple[Path, ...]

    counted_first: ClassVar[bool]
    """Whether the kernel notifies us only after it has counted the kill (see `watching`)."""

    @property
    @abstractmethod
    def entry_files(self) -> tuple[str, ...]:
        """The files to which a process writes ``0`` to enter the group."""

    @abstractmethod
    def make(self) -> None: ...

    @abstractmethod
    def set_limits(self, limits: Limits) -> bool:
        """Set the limits of the next run, and return whether that is possible.

        It is not if the sandbox already uses more memory: files in a tmpfs are memory.
        """

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return the memory charged to the group now."""

    @abstractmethod
    def cpu_time_us(self) -> int:
        """Return the CPU time of everything that was ever in the group, in microseconds.

        Unlike the rusage of processes it is complete: a child whose parent ignores SIGCHLD is
        reaped by the kernel and counted nowhere (wait(2), notes).
        """

    @abstractmethod
    def peak_memory_bytes(self) -> int | None:
        """Return the peak of charged memory, with the page cache; None if unknown."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed at the memory limit."""

    @abstractmethod
    def watching(self, on_oom: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `on_oom` on the loop each time the group reaches its memory limit."""

    async def limit(self, limits: Limits) -> bool:
        """Set the limits of the next run; see `set_limits`."""
        # If the group already uses more, the kernel reclaims, or kills, before the write returns.
        # The margin is large, so that the use cannot grow beyond it meanwhile.
        if self.memory_bytes() <= limits.memory_bytes // 2:
            return self.set_limits(limits)
        return await asyncio.get_running_loop().run_in_executor(THREADS, self.set_limits, limits)

    @property
    def _pids_max(self) -> Path:
        return self.folders[0] / "pids.max"

    def kill(self) -> None:
        """Kill everything in the group, without waiting until it is dead."""
        kill(self.folders[0], self._pids_max)

    async def clear(self) -> bool:
        """Kill everything in the group and wait until it is empty; False if that takes too long."""
        for _ in range(CLEAR_TRIES):
            if not pids(self.folders[0]):
                return True
            self.kill()
            await asyncio.sleep(CLEAR_PAUSE_S)
        return False

    async def remove(self) -> None:
        """Kill what is in the group and remove it, however long that takes.

        It takes as long as a process resists SIGKILL: the caller must bound the wait.
        """
        for folder in self.folders:
            tries = 0
            while not _removed(folder):
                # A process may stay in the group for a moment after it was reaped.
                tries += 1
                if tries == CLEAR_TRIES:
                    log.error("the cgroup %s cannot be removed: a process in it is alive", folder)
                self.kill()
                await asyncio.sleep(CLEAR_PAUSE_S if tries < CLEAR_TRIES else SLOW_PAUSE_S)


def _removed(folder: Path) -> bool:
    """Remove a group; return False if it is not empty."""
    try:
        os.rmdir(folder)  # noqa: PTH106 - called in coroutines; it does not block
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True

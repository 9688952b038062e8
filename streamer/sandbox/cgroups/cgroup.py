"""The control group of a sandbox: what both versions have in common."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Final, Literal

from streamer.model.job import Limits
from streamer.sandbox.cgroups.files import GroupFiles, kill, pids

__all__ = ["MOST_LEFT_BYTES", "OVERHEAD_PROCESSES", "Cgroup", "Level"]

log: Final = logging.getLogger(__name__)

Level = Literal["cgroup-v1", "cgroup-v2"]

OVERHEAD_PROCESSES: Final = 6
"""Processes of the wrapper, which are in the group too; firejail has the most."""

MOST_LEFT_BYTES: Final = 1024 * 1024
"""With more memory charged a group is not used again.

A job leaves 0.3 to 0.9 MiB, now and then some more if the group is used again at once: what the
kernel frees later (namespaces), and what each processor has charged in advance
(MEMCG_CHARGE_BATCH). Beyond that it is page cache of files that it has read or written. Reclaiming
that would evict the files of runtimes, which the next job needs, from the cache.
"""

CLEAR_TRIES: Final = 500
CLEAR_PAUSE_S: Final = 0.01
THREADS: Final = ThreadPoolExecutor(4, "streamer-cgroups")
"""For setting limits, which may take the kernel long."""
SLOW_PAUSE_S: Final = 1.0
"""Between attempts to remove a group once that has failed for long."""


class Cgroup(ABC):
    """The group of one sandbox at a time: one folder, or in version 1 one in each hierarchy."""

    counted_first: ClassVar[bool]
    """Whether the kernel notifies us only after it has counted the kill (see `watch`)."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.folders = folders
        self._files: Sequence[GroupFiles] = [GroupFiles(folder) for folder in folders]
        self._watch = contextlib.ExitStack()
        self._on_oom: Callable[[], None] | None = None
        self._limiting = False
        """Whether a thread is setting the limits; it may still be when nobody waits for it."""
        self._killed = False
        self._cpu_before_us = 0

    @property
    @abstractmethod
    def entry(self) -> tuple[str, ...]:
        """The options with which ``streamer-init enter`` enters the group.

        They change once the group was killed.
        """

    @functools.cached_property
    def limits_swap(self) -> bool:
        """Whether its memory limit is one of swap too, which the kernel may not account."""
        return self._has("memory.swap.max", "memory.memsw.limit_in_bytes")

    @functools.cached_property
    def shares_processors(self) -> bool:
        """Whether it gets the same share of the processors as every other group."""
        return self._has("cpu.weight", "cpu.shares")

    def _has(self, *names: str) -> bool:
        return any((folder / name).exists() for folder in self.folders for name in names)

    @property
    def clone_folder(self) -> str:
        """The folder into which a process may be cloned (CLONE_INTO_CGROUP), or ``""``."""
        return ""

    @abstractmethod
    def entry_fds(self) -> Sequence[int]:
        """Return open files; a process that is given them enters the group by writing ``0``."""

    @abstractmethod
    def make(self) -> None:
        """Make the group, and start to watch its memory limit on the running loop."""

    @abstractmethod
    def set_limits(self, files: Sequence[GroupFiles], limits: Limits) -> bool:
        """Set the limits of the next run, and return whether that is possible.

        It is not if the sandbox already uses more memory: files in a tmpfs are memory.
        """

    @abstractmethod
    def unlimit(self) -> None:
        """Take the limits back: what starts the next sandbox may need more."""

    @abstractmethod
    def memory_bytes(self) -> int:
        """Return the memory charged to the group now."""

    @abstractmethod
    def needed_bytes(self) -> int:
        """Return the part of it which the kernel cannot drop: no page cache, but shared memory."""

    @abstractmethod
    def total_cpu_time_us(self) -> int:
        """Return the CPU time of everything that was ever in the group, in microseconds.

        Unlike the rusage of processes it is complete: a child whose parent ignores SIGCHLD is
        reaped by the kernel and counted nowhere (wait(2), notes).
        """

    @abstractmethod
    def peak_memory_bytes(self) -> int | None:
        """Return the peak of charged memory, with the page cache; None if unknown."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Return how many processes the kernel has ever killed at the memory limit."""

    @abstractmethod
    def processes(self) -> int:
        """Return how many processes and threads are in the group, with those not yet reaped."""

    @abstractmethod
    def unaltered(self) -> bool:
        """Return whether what is set only once is as we set it. Raises OSError if it is gone."""

    @abstractmethod
    def forget(self) -> bool:
        """Forget the peak, and notices of the memory limit; return whether the kernel can."""

    def cpu_time_us(self) -> int:
        """Return the CPU time of everything that was in the group since it was lent."""
        return self.total_cpu_time_us() - self._cpu_before_us

    def lent(self, on_oom: Callable[[], None]) -> None:
        """Call `on_oom` on the loop each time the group reaches its memory limit."""
        self._on_oom = on_oom

    def returned(self) -> bool:
        """Return whether the group may be used again: no process of its sandbox is left in it."""
        self._on_oom = None
        try:
            used = self._limiting or self._killed or self.processes()
            return not used and self.forget()
        except OSError:
            return False

    def renewed(self) -> bool:
        """Make a group that was returned as good as new; return whether that is possible."""
        try:
            if self.processes() or not self.unaltered():
                log.warning("others use or have changed the cgroup %s: it is replaced", self)
                return False
            # Only now, since the kernel has freed more than when the sandbox ended.
            if self.memory_bytes() > MOST_LEFT_BYTES or not self.forget():
                return False
            self.unlimit()
            self._cpu_before_us = self.total_cpu_time_us()
        except OSError as error:
            log.warning("the cgroup %s is replaced: %s", self, error)
            return False
        return True

    def __str__(self) -> str:
        return str(self.folders[0])

    def _reached_limit(self) -> None:
        if self._on_oom is not None:
            self._on_oom()

    async def limit(self, limits: Limits) -> bool:
        """Set the limits of the next run; see `set_limits`."""
        # If the group already uses more, the kernel reclaims, or kills, before the write returns.
        # The margin is large, so that the use cannot grow beyond it meanwhile.
        if self.memory_bytes() <= limits.memory_bytes // 2:
            return self.set_limits(self._files, limits)
        # If the sandbox is closed meanwhile, the thread goes on, and the group is not used again.
        self._limiting = True
        possible = await asyncio.get_running_loop().run_in_executor(
            THREADS, self._set_limits_apart, limits
        )
        self._limiting = False
        return possible

    def _set_limits_apart(self, limits: Limits) -> bool:
        """Set the limits in a thread, with its own descriptors: ours may be closed meanwhile."""
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(contextlib.closing(GroupFiles(folder)))
                for folder in self.folders
            ]
            return self.fits(files, limits) and self.set_limits(files, limits)

    def fits(self, files: Sequence[GroupFiles], limits: Limits) -> bool:
        """Return whether the group needs no more memory, where setting the limit would not tell."""
        return True

    @property
    def _pids_max(self) -> Path:
        return self.folders[0] / "pids.max"

    def kill(self) -> None:
        """Kill everything in the group, without waiting until it is dead.

        It is not lent again then.
        """
        self._killed = True
        kill(self.folders[0], self._pids_max)

    def empty(self) -> bool:
        """Return whether no process is left in the group."""
        return not pids(self.folders[0])

    async def clear(self) -> bool:
        """Kill everything in the group and wait until it is empty; False if that takes too long."""
        for _ in range(CLEAR_TRIES):
            if self.empty():
                return True
            self.kill()
            await asyncio.sleep(CLEAR_PAUSE_S)
        return False

    def close(self) -> None:
        """Close the group's files, and watch it no more."""
        self._watch.close()
        for files in self._files:
            files.close()

    async def remove(self) -> None:
        """Kill what is in the group and remove it, however long that takes.

        It takes as long as a process resists SIGKILL: the caller must bound the wait.
        """
        self.close()
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

"""Measure one run with the control group of its sandbox, and notice when it exceeds a limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.shape import Cause, RunEnd

__all__ = ["Alarm", "Meter"]

CPU_WATCH_S: Final = 0.1
PROCESSORS: Final = os.sysconf("SC_NPROCESSORS_CONF")
"""Also those that are switched off now."""


class Alarm:
    """Set when a control group reaches its memory limit, until it is cleared."""

    def __init__(self) -> None:
        self._set = False
        self.hear: Callable[[], None] | None = None
        """Called each time it is set."""

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        if self.hear is not None:
            self.hear()

    def clear(self) -> None:
        self._set = False


class Meter:
    """The usage of one run, as its control group counts it. Create it before the run begins."""

    def __init__(self, cgroup: Cgroup, ran_out: Alarm, limits: Limits) -> None:
        """`ran_out` is set when the group reaches its memory limit."""
        ran_out.clear()
        self._cgroup = cgroup
        self._ran_out = ran_out
        self._allowed_us = limits.cpu_time_s * 1e6
        self._kills_before = cgroup.oom_kills()
        self._before_us = cgroup.cpu_time_us()
        self._timer: asyncio.TimerHandle | None = None
        self._passed: asyncio.Future[Cause] | None = None

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the run for memory."""
        return self._cgroup.oom_kills() > self._kills_before

    def watch(self) -> asyncio.Future[Cause]:
        """Watch memory and CPU time until `unwatch`; the result is the limit that is used up.

        It fails if the usage cannot be read. The init counts CPU time too, but not that of children
        that nobody reaps.
        """
        self._passed = asyncio.get_running_loop().create_future()
        self._ran_out.hear = self._look_at_memory
        self._look_at_cpu_time_in(self._allowed_us)
        if self._ran_out.is_set():
            self._look_at_memory()
        return self._passed

    def unwatch(self) -> None:
        self._ran_out.hear = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_memory(self) -> None:
        try:
            if self.out_of_memory or not self._cgroup.counted_first:
                self._tell("memory")
            else:
                # A kill in an earlier run: version 2 may notify us 10 ms later.
                self._ran_out.clear()
        except Exception as failure:  # noqa: BLE001 - who waits gets it
            self._fail(failure)

    def _look_at_cpu_time(self) -> None:
        try:
            left_us = self._allowed_us - self.used_us()
        except Exception as failure:  # noqa: BLE001 - as above
            self._fail(failure)
            return
        if left_us > 0:
            self._look_at_cpu_time_in(left_us)
        else:
            self._tell("cpu_time")

    def _look_at_cpu_time_in(self, left_us: float) -> None:
        # Even with all processors the rest cannot be used up earlier.
        wait_s = max(CPU_WATCH_S, left_us / 1e6 / PROCESSORS)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(wait_s, self._look_at_cpu_time)

    def _tell(self, cause: Cause) -> None:
        self.unwatch()
        if self._passed is not None and not self._passed.done():
            self._passed.set_result(cause)

    def _fail(self, failure: Exception) -> None:
        self.unwatch()
        if self._passed is not None and not self._passed.done():
            self._passed.set_exception(failure)
            self._passed.exception()  # marked as retrieved, since the run may be over

    def judged(self, end: RunEnd, passed: Cause | None) -> RunEnd:
        """Add the reason to the end of the run, and the usage that no init has reported.

        `passed` is the limit for which the run was killed. The kernel's counter of kills may be
        read later, since it counts what happened before.
        """
        if end.cause in (None, "killed"):
            if os.WIFSIGNALED(end.status) and self.out_of_memory:
                end = replace(end, cause="memory")
            elif passed is not None:
                end = replace(end, cause=passed)
        used_us = self.used_us()
        # The kernel's limit of one process is the same, and may be reached first.
        if end.cause is None and _by_limit(end.status) and used_us >= self._allowed_us:
            end = replace(end, cause="cpu_time")
        if end.cpu_time_us is None:
            return replace(
                end, cpu_time_us=used_us, peak_memory_bytes=self._cgroup.peak_memory_bytes()
            )
        # The init does not see all of a child whose parent ignores SIGCHLD.
        return replace(end, cpu_time_us=max(end.cpu_time_us, used_us))

    def used_us(self) -> int:
        """Return the CPU time of the run so far."""
        return self._cgroup.cpu_time_us() - self._before_us


def _by_limit(status: int) -> bool:
    """Return whether RLIMIT_CPU may have ended a process (setrlimit(2))."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)

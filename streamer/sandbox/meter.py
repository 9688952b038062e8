"""Measure one run with the control group of its sandbox, and notice when it exceeds a limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import Final

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.shape import Cause, RunEnd

__all__ = ["Meter"]

CPU_WATCH_S: Final = 0.1


class Meter:
    """The usage of one run, as its control group counts it. Create it before the run begins."""

    def __init__(self, cgroup: Cgroup, ran_out: asyncio.Event, limits: Limits) -> None:
        """`ran_out` is an event that is set when the group reaches its memory limit."""
        ran_out.clear()
        self._cgroup = cgroup
        self._ran_out = ran_out
        self._allowed_us = limits.cpu_time_s * 1e6
        self._kills_before = cgroup.oom_kills()
        self._before_us = cgroup.cpu_time_us()

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process of the run for memory."""
        return self._cgroup.oom_kills() > self._kills_before

    async def limit_passed(self) -> Cause:
        """Return once the run has used up its memory or its CPU time.

        The init counts CPU time too, but not that of children that nobody reaps.
        """
        left_us = self._allowed_us
        while left_us > 0:
            # Even with all processors the rest cannot be used up earlier.
            wait_s = max(CPU_WATCH_S, left_us / 1e6 / (os.cpu_count() or 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._ran_out.wait()
                if self.out_of_memory or not self._cgroup.counted_first:
                    return "memory"
                # A kill in an earlier run: version 2 may notify us 10 ms later.
                self._ran_out.clear()
            left_us = self._allowed_us - self._used_us()
        return "cpu_time"

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
        used_us = self._used_us()
        if end.cpu_time_us is None:
            return replace(
                end, cpu_time_us=used_us, peak_memory_bytes=self._cgroup.peak_memory_bytes()
            )
        # The init does not see all of a child whose parent ignores SIGCHLD.
        return replace(end, cpu_time_us=max(end.cpu_time_us, used_us))

    def _used_us(self) -> int:
        return self._cgroup.cpu_time_us() - self._before_us

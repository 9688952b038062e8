"""Run one program of a job in its sandbox: pipes, start, limits, end, the rest of its output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from streamer.errors import SandboxFailure
from streamer.model.job import Step
from streamer.sandbox.cgroups import JobCgroup
from streamer.sandbox.channel import KILLED_FOR_MEMORY, ProgramEnd
from streamer.sandbox.confine import Confined
from streamer.sandbox.driver import Sandbox
from streamer.worker.feed import InputFeed
from streamer.worker.finish import ENGINE_TIMEOUT_S
from streamer.worker.output import OutputPump
from streamer.worker.verdict import StopReason

__all__ = ["Patience", "ProgramRun", "out_of_memory"]

CPU_WATCH_S: Final = 0.1

END_TIMEOUT_S: Final = 5.0
"""For the sandbox to say that all is over, once all was killed."""

GENTLE: Final = frozenset({"cancelled", "wall_time", "shutting_down"})
"""Stops that give the program SIGTERM and a moment first."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what ends: times in seconds.

    `kill_grace_s` lies between SIGTERM and SIGKILL; `linger_s` has what a program leaves, and
    what holds its output, after the program's own end.
    """

    kill_grace_s: float
    linger_s: float


class ProgramRun:
    """One program from its start to its end. `stop` is the job's, and may come at any moment."""

    def __init__(
        self,
        confined: Confined,
        step: Step,
        pump: OutputPump,
        stop: asyncio.Future[StopReason],
        patience: Patience,
        on_start: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`on_end` is called at the program's own end, perhaps before that of what it left."""
        self._sandbox: Sandbox = confined.sandbox
        self._identity = confined.identity
        self._cgroup = confined.cgroup
        self._step = step
        self._pump = pump
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._on_start = on_start
        self._on_end = on_end
        self.stopped: StopReason | None = None
        """What was asked before the program's own end."""

    async def run(self, env: Mapping[str, str], feed: InputFeed | None) -> ProgramEnd:
        """Run it and return its end, when all that it started is dead and all output is passed on.

        `feed` is its standard input; without one, that is at its end from the start.
        """
        started = time.monotonic()
        used_us = 0
        with contextlib.ExitStack() as theirs:
            stdio = self._stdio(feed, theirs)
            try:
                if self._cgroup is not None:
                    if not await self._cgroup.limit(self._step.limits):
                        return KILLED_FOR_MEMORY
                    used_us = self._cgroup.cpu_time_us()
                await self._sandbox.start(self._step, env, stdio)
            except SandboxFailure:
                if not out_of_memory(self._cgroup):
                    raise
                return KILLED_FOR_MEMORY
            self._on_start()
        return await self._to_its_end(started, used_us)

    def _stdio(self, feed: InputFeed | None, theirs: contextlib.ExitStack) -> tuple[int, int, int]:
        """Return the program's ends of its pipes; `theirs` closes our copies of them.

        They belong to the job's user: else it could not open them by name (/dev/stdout).
        """
        if feed is None:
            stdin, writing = os.pipe2(os.O_CLOEXEC)
            os.close(writing)
            theirs.callback(os.close, stdin)
        else:
            stdin = feed.reading
            theirs.callback(feed.handed_over)
        stdout = self._pump.pipe("stdout")
        theirs.callback(os.close, stdout)
        stderr = self._pump.pipe("stderr")
        theirs.callback(os.close, stderr)
        if self._identity is not None:
            for fd in (stdin, stdout, stderr):
                os.fchown(fd, self._identity.uid, self._identity.gid)
        return stdin, stdout, stderr

    async def _to_its_end(self, started: float, used_us: int) -> ProgramEnd:
        pumping = asyncio.create_task(self._pump.run())
        pumping.add_done_callback(self._pump_ended)
        watching = asyncio.create_task(self._watch_cpu(used_us))
        try:
            try:
                end = await self._supervise(pumping)
            except SandboxFailure:
                # What no process holds (files in memory, full pipes) can fill the job's group,
                # and when it is the init that needs more, the kernel takes the init.
                if not out_of_memory(self._cgroup):
                    raise
                wall_us = int((time.monotonic() - started) * 1e6)
                end = replace(KILLED_FOR_MEMORY, wall_us=wall_us)
            self._on_end()
            self._pump.read_rest()
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                await pumping
            return self._measured(end, used_us)
        finally:
            for task in (pumping, watching):
                task.cancel()
            await asyncio.gather(pumping, watching, return_exceptions=True)

    async def _supervise(self, pumping: asyncio.Task[None]) -> ProgramEnd:
        """Wait for the program's end, or bring it about when it is asked for or due."""
        sandbox = self._sandbox
        due = self._loop.time() + self._step.limits.wall_time_s
        exited = asyncio.create_task(sandbox.exited())
        ending = asyncio.create_task(sandbox.end())
        try:
            await self._until_exit(exited)
            if not exited.done():
                await sandbox.kill()
            elif exited.exception() is None:
                self._on_end()
                self._pump.hurry()
                await self._linger(pumping, ending, due - self._loop.time())
            if not ending.done():
                await asyncio.wait({ending}, timeout=END_TIMEOUT_S)
            if not ending.done():
                await sandbox.kill()
                await asyncio.wait({ending}, timeout=END_TIMEOUT_S)
            if not ending.done():
                raise SandboxFailure("the sandbox does not say that its program is over")
            return ending.result()
        except asyncio.CancelledError:
            with contextlib.suppress(SandboxFailure):
                await sandbox.kill()
            raise
        finally:
            for task in (exited, ending):
                task.cancel()
            await asyncio.gather(exited, ending, return_exceptions=True)

    async def _until_exit(self, exited: asyncio.Task[None]) -> None:
        """Wait for the program's own end, and if it is stopped, for no longer than it may take."""
        watched: set[asyncio.Future[Any]] = {exited, self._stop}
        await asyncio.wait(
            watched,
            timeout=self._step.limits.wall_time_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not exited.done():
            self.stop("wall_time")  # unless another reason was first
            if self._stop.result() in GENTLE:
                self._sandbox.signal(signal.SIGTERM)
                self._sandbox.signal(signal.SIGCONT)  # what is stopped would not hear of it
                await asyncio.wait({exited}, timeout=self._patience.kill_grace_s)
        if self._stop.done():
            self.stopped = self._stop.result()

    async def _linger(
        self, pumping: asyncio.Task[None], ending: asyncio.Task[ProgramEnd], left_s: float
    ) -> None:
        """Let what the program has left go on, as long as it holds the output and may."""
        if self.stopped is None and not ending.done():
            holding: set[asyncio.Future[Any]] = {pumping, ending, self._stop}
            await asyncio.wait(
                holding,
                timeout=min(self._patience.linger_s, max(0.0, left_s)),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not ending.done():
            self._sandbox.end_rest()

    def stop(self, reason: StopReason) -> None:
        """Ask for the end of the job; the first reason stands."""
        if not self._stop.done():
            self._stop.set_result(reason)

    def _pump_ended(self, pumping: asyncio.Task[None]) -> None:
        # Nobody would read the program's output any more; `_to_its_end` raises the reason.
        if not pumping.cancelled() and pumping.exception() is not None:
            self.stop("lost")

    async def _watch_cpu(self, used_us: int) -> None:
        """End the job over its CPU time where a control group counts what the init cannot.

        `used_us` is what it had used before this program.
        """
        if self._cgroup is None:
            return
        left_us = allowed_us = self._step.limits.cpu_time_s * 1e6
        while left_us > 0:
            # All processors together cannot use it up sooner.
            await asyncio.sleep(max(CPU_WATCH_S, left_us / 1e6 / (os.cpu_count() or 1)))
            left_us = allowed_us + used_us - self._cgroup.cpu_time_us()
        self.stop("cpu_time")

    def _measured(self, end: ProgramEnd, used_us: int) -> ProgramEnd:
        """Add what the control group has counted since `used_us` where no init could."""
        if self._cgroup is None or end.cpu_time_us is not None:
            return end
        return replace(
            end,
            cpu_time_us=self._cgroup.cpu_time_us() - used_us,
            peak_memory_bytes=self._cgroup.peak_memory_bytes(),
        )


def out_of_memory(cgroup: JobCgroup | None) -> bool:
    """Return whether the kernel has killed anything of a job for memory."""
    return cgroup is not None and cgroup.oom_kills() > 0

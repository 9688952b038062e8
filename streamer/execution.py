"""Run one job: lay out its files, run its steps, watch its limits, tell its verdict.

The route: lease -> workspace -> sandbox -> for each step pipes, program, output events
-> the end as the kernel tells it -> one terminal event. Whatever happens on the way,
everything the job started is dead before that event, and there is exactly one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from streamer.cgroups import CgroupTree, JobCgroup
from streamer.control import KILLED_FOR_MEMORY, ProgramEnd
from streamer.engine import Cancel, Eof, Input, Lease, LeaseLost, Lost, Signal
from streamer.errors import SandboxFailure
from streamer.events import Complete, Error, JobEvent, Reason, encode
from streamer.feed import InputFeed
from streamer.jobs import Phase, Step
from streamer.output import Budget, OutputPump
from streamer.proxy import PROXY_PORT, Outbound, Proxy, proxy_environment
from streamer.proxy_rules import HostRule
from streamer.rootfs import shown
from streamer.sandbox import Sandbox, open_sandbox
from streamer.slots import UidSlots
from streamer.spi import Backend, Identity, SandboxJob
from streamer.workspace import StateFolder

__all__ = ["Execution", "ExecutionSettings"]

log: Final = logging.getLogger(__name__)

USER: Final = "nobody"
"""What programs are told of whom they run as; bwrap's /etc/passwd lists it."""

CPU_WATCH_S: Final = 0.1

EOF_GRACE_S: Final = 0.25
"""A backend without our init may leave somebody with the pipe; then we stop reading."""

StopReason = Literal[
    "cancelled", "wall_time", "cpu_time", "memory", "output_limit", "shutting_down", "lost"
]
GENTLE: Final = frozenset({"cancelled", "wall_time", "shutting_down"})
"""Stops that give the program SIGTERM and a moment first."""


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """What the configuration says about running: times in seconds."""

    path: str
    kill_grace_s: float
    on_output_limit: Literal["kill", "truncate"]
    strict_filter: bool = False
    outbound: Outbound = field(default_factory=Outbound)


class Execution:
    """One run of one leased job."""

    def __init__(
        self,
        lease: Lease,
        backend: Backend,
        folder: StateFolder,
        slots: UidSlots | None,
        cgroups: CgroupTree | None,
        settings: ExecutionSettings,
    ) -> None:
        self._lease = lease
        self._job = lease.job
        # Other accounts see names of folders, groups and commands; the id opens the job.
        self._name = secrets.token_hex(8)
        self._backend = backend
        self._folder = folder
        self._slots = slots
        self._cgroups = cgroups
        self._settings = settings
        self._budget = Budget(self._job.limits.output_bytes)
        self._stop: asyncio.Future[StopReason] = asyncio.get_running_loop().create_future()
        # Once a program has been started in it; signals that come earlier wait for it.
        self._sandbox: Sandbox | None = None
        self._signals: list[int] = []
        self._program_ended = asyncio.Event()
        self._cgroup: JobCgroup | None = None
        self._feed: asyncio.Future[InputFeed] = asyncio.get_running_loop().create_future()
        self.outcome = ""
        """The reason or the error code the job ended with, once it has."""

    def stop(self, reason: StopReason) -> None:
        """Ask for the end of the job; the first reason stands."""
        if not self._stop.done():
            self._stop.set_result(reason)

    async def run(self) -> None:
        """Run the job and write its terminal event. Raises only `asyncio.CancelledError`."""
        verdict: Complete | Error
        listening = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._take_input()),
        ]
        try:
            verdict = await self._run_confined()
        except SandboxFailure as failure:
            log.error("job %s: %s: %s", self._job.job_id, self._backend.name, failure)
            verdict = Error("sandbox_error", "the sandbox could not run the job")
        except LeaseLost:
            return
        except asyncio.CancelledError:
            # The sandbox is gone by now; the readers must learn that the job is too.
            await self._finish(Error("shutting_down", "the service stopped"))
            raise
        except Exception:
            log.exception("job %s: unexpected failure", self._job.job_id)
            verdict = Error("internal", "the job failed by an internal error")
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
        await self._finish(verdict)

    async def _finish(self, verdict: Complete | Error) -> None:
        events: list[JobEvent] = [*self._budget.truncated(), verdict]
        with contextlib.suppress(LeaseLost):
            if await self._lease.finish([encode(event) for event in events]):
                self.outcome = verdict.reason if isinstance(verdict, Complete) else verdict.code

    async def _listen(self) -> None:
        async for control in self._lease.control():
            match control:
                case Cancel():
                    self.stop("cancelled")
                case Lost():
                    self.stop("lost")
                case Signal(number):
                    self._signals.append(number)
                    self._pass_signals_on()

    async def _take_input(self) -> None:
        if not self._job.interactive:
            return
        feed = await self._feed
        async for item in self._lease.inputs():
            match item:
                case Input(data):
                    await feed.write(data)
                case Eof():
                    feed.end()

    async def _run_confined(self) -> Complete | Error:
        async with contextlib.AsyncExitStack() as stack:
            identity = None
            if self._slots is not None:
                identity = await stack.enter_async_context(self._slots.lend())
            identity = self._backend.run_as(identity)
            await self._lease.state("preparing")
            workspace = await stack.enter_async_context(
                self._folder.workspace(self._name, identity, on_host=self._backend.host_workspace)
            )

            if self._cgroups is not None:
                self._cgroup = await stack.enter_async_context(
                    self._cgroups.job(self._name, lambda: self.stop("memory"))
                )

            def describe(argv: tuple[str, ...]) -> SandboxJob:
                return self._describe(argv, identity, workspace)

            sandbox = await stack.enter_async_context(
                open_sandbox(
                    self._backend,
                    self._folder.host,
                    workspace,
                    describe,
                    self._cgroup,
                    strict_filter=self._settings.strict_filter,
                )
            )
            if self._job.allow_hosts:
                await stack.enter_async_context(await self._proxy(sandbox))
            await sandbox.put_files(self._job.files)
            return await self._run_steps(sandbox)

    def _describe(
        self, argv: tuple[str, ...], identity: Identity | None, workspace: Path
    ) -> SandboxJob:
        return SandboxJob(
            name=self._name,
            argv=argv,
            env=self._environment(str(workspace)),
            limits=self._job.limits,
            network=self._job.network,
            shown=shown(
                self._folder.host, self._job.read_only, self._job.etc, network=self._job.network
            ),
            identity=identity,
            host=self._folder.host,
        )

    async def _proxy(self, sandbox: Sandbox) -> Proxy:
        return Proxy(
            await sandbox.listen(PROXY_PORT),
            [HostRule.parse(entry) for entry in self._job.allow_hosts],
            job_id=self._job.job_id,
            outbound=self._settings.outbound,
        )

    async def _run_steps(self, sandbox: Sandbox) -> Complete | Error:
        cpu_us, wall_us, peak = 0, 0, 0
        measured = True
        for step in self._job.steps:
            await self._lease.state("compiling" if step.phase is Phase.COMPILE else "running")
            started = time.monotonic()
            try:
                end = await self._run_step(sandbox, step)
            except SandboxFailure:
                # What no process holds (files in memory, full pipes) can fill the job's group, and
                # when it is the init that needs more, the kernel takes the init.
                if self._cgroup is None or not self._cgroup.oom_kills():
                    raise
                wall = int((time.monotonic() - started) * 1e6)
                end = ProgramEnd(signal.SIGKILL, "memory", None, None, wall)
            wall_us += end.wall_us
            measured = measured and end.cpu_time_us is not None
            cpu_us += end.cpu_time_us or 0
            peak = max(peak, end.peak_memory_bytes or 0)
            if end.status != 0 or self._stop.done():
                break
        reason = self._reason(end)
        if reason == "shutting_down":
            return Error("shutting_down", "the service stopped before the job was over")
        exited = os.WIFEXITED(end.status)
        return Complete(
            reason=reason,
            exit_code=os.WEXITSTATUS(end.status) if exited else None,
            signal=None if exited else _signal_name(os.WTERMSIG(end.status)),
            duration_ms=wall_us // 1000,
            cpu_time_ms=cpu_us // 1000 if measured else None,
            peak_memory_bytes=peak if measured else None,
            timed_out=reason in ("wall_time", "cpu_time"),
            oom_killed=reason == "memory",
            output_bytes=self._budget.taken,
            output_truncated=self._budget.exceeded,
            sandbox=self._backend.name,
            phase=step.phase.value,
        )

    def _reason(self, end: ProgramEnd) -> Reason | Literal["shutting_down"]:
        """Tell why the program ended: by itself, by a limit of the tree, or by us."""
        if end.cause in ("cpu_time", "memory", "disk"):
            return end.cause
        # The kernel's notice may come after the program's end.
        if os.WIFSIGNALED(end.status) and self._out_of_memory():
            return "memory"
        if self._stop.done():
            stopped = self._stop.result()
            if stopped == "lost":
                raise LeaseLost
            return stopped
        return "exited" if os.WIFEXITED(end.status) else "signaled"

    async def _run_step(self, sandbox: Sandbox, step: Step) -> ProgramEnd:
        pump = OutputPump(
            phase=step.phase.value,
            budget=self._budget,
            as_base64=self._job.output_encoding == "base64",
            elapsed_ms=self._elapsed_ms,
            write=self._write,
            on_exceeded=self._output_exceeded,
        )
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            ours.callback(pump.close)
            stdin = self._standard_input(step, ours, theirs)
            stdout, stderr = pump.pipe("stdout"), pump.pipe("stderr")
            theirs.callback(os.close, stdout)
            theirs.callback(os.close, stderr)
            used_us = 0
            if self._cgroup is not None:
                if not self._cgroup.set_limits(step.limits):
                    return KILLED_FOR_MEMORY
                used_us = self._cgroup.cpu_time_us()
            self._program_ended.clear()
            try:
                await sandbox.start(step, self._environment(sandbox.home), (stdin, stdout, stderr))
            except SandboxFailure:
                if not self._out_of_memory():
                    raise
                return KILLED_FOR_MEMORY
            # Ours would keep the pipes open after the program's end.
            theirs.close()
            self._sandbox = sandbox
            self._pass_signals_on()
            pumping = asyncio.create_task(pump.run())
            pumping.add_done_callback(self._pump_ended)
            watching = asyncio.create_task(self._watch_cpu(used_us + step.limits.cpu_time_s * 1e6))
            try:
                end = self._measured(await self._supervise(sandbox, step), used_us)
                self._program_ended.set()
                pump.hurry()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if self._backend.gated else EOF_GRACE_S):
                        await pumping
                return end
            finally:
                for task in (pumping, watching):
                    task.cancel()
                await asyncio.gather(pumping, watching, return_exceptions=True)

    async def _supervise(self, sandbox: Sandbox, step: Step) -> ProgramEnd:
        """Wait for the program's end, or bring it about when it is asked for or due."""
        ending = asyncio.create_task(self._end_of(sandbox))
        watched: set[asyncio.Future[Any]] = {ending, self._stop}
        try:
            await asyncio.wait(
                watched, timeout=step.limits.wall_time_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not ending.done():
                self.stop("wall_time")  # unless another reason was first
                if self._stop.result() in GENTLE:
                    sandbox.signal(signal.SIGTERM)
                    await asyncio.wait({ending}, timeout=self._settings.kill_grace_s)
            if not ending.done():
                await sandbox.kill()
            return await ending
        except asyncio.CancelledError:
            await sandbox.kill()
            raise
        finally:
            ending.cancel()

    async def _end_of(self, sandbox: Sandbox) -> ProgramEnd:
        """Wait for the end, which may be the kernel's of the whole group, the init included."""
        started = time.monotonic()
        try:
            return await sandbox.end()
        except SandboxFailure:
            if not self._out_of_memory():
                raise
            wall_us = int((time.monotonic() - started) * 1e6)
            return replace(KILLED_FOR_MEMORY, wall_us=wall_us)

    def _out_of_memory(self) -> bool:
        return self._cgroup is not None and self._cgroup.oom_kills() > 0

    def _standard_input(
        self, step: Step, ours: contextlib.ExitStack, theirs: contextlib.ExitStack
    ) -> int:
        given = self._job.stdin
        if step.phase is Phase.COMPILE or (given is None and not self._job.interactive):
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            return null
        feed = InputFeed()
        ours.callback(feed.close)
        theirs.callback(feed.handed_over)
        if given:
            feed.offer(given)
        if not self._job.interactive:
            feed.end()
        self._feed.set_result(feed)
        return feed.reading

    def _environment(self, home: str) -> dict[str, str]:
        base = {
            "PATH": self._settings.path,
            "HOME": home,
            "LANG": "C.UTF-8",
            "LOGNAME": USER,
            "USER": USER,
            "TERM": "dumb",
            "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's
        }
        proxy = proxy_environment() if self._job.allow_hosts else {}
        return {**base, **proxy, **self._job.env}

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._lease.accepted_at) * 1000)

    async def _write(self, events: Sequence[JobEvent]) -> None:
        await self._lease.append([encode(event) for event in events])
        if self._lease.full and not self._program_ended.is_set():
            # Nothing is read meanwhile, so the program's writes block; a dead one has little left.
            await _first_of(self._lease.room(), self._program_ended.wait())

    def _measured(self, end: ProgramEnd, used_us: int) -> ProgramEnd:
        """Add what the control group has counted since `used_us` where no init could."""
        if self._cgroup is None or end.cpu_time_us is not None:
            return end
        return replace(
            end,
            cpu_time_us=self._cgroup.cpu_time_us() - used_us,
            peak_memory_bytes=self._cgroup.peak_memory_bytes(),
        )

    async def _watch_cpu(self, limit_us: float) -> None:
        """End the job over its CPU time where a control group counts what the init cannot."""
        if self._cgroup is None:
            return
        while True:
            left_us = limit_us - self._cgroup.cpu_time_us()
            if left_us <= 0:
                break
            # All processors together cannot use it up sooner.
            await asyncio.sleep(max(CPU_WATCH_S, left_us / 1e6 / (os.cpu_count() or 1)))
        self.stop("cpu_time")

    def _pass_signals_on(self) -> None:
        """Send what came for the program; before it has started, that waits."""
        if self._sandbox is not None:
            while self._signals:
                self._sandbox.signal(self._signals.pop(0))

    def _pump_ended(self, pumping: asyncio.Task[None]) -> None:
        # Nobody would read the program's output any more; `_run_step` raises the reason.
        if not pumping.cancelled() and pumping.exception() is not None:
            self.stop("lost")

    def _output_exceeded(self) -> None:
        if self._settings.on_output_limit == "kill":
            self.stop("output_limit")


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for one of several things and give up the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"SIG{number}"

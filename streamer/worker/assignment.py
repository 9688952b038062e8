"""One job and all that a worker runs it with; every way to run a job opens and runs by it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from streamer.config.artifacts import ArtifactsConfig
from streamer.engine.blobs import Blobs
from streamer.errors import SandboxFailure
from streamer.model.events import JobEvent
from streamer.model.job import Phase, ResolvedJob, Step
from streamer.model.timeline import Timeline
from streamer.sandbox.network.proxy import Outbound
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run, RunEnd, StoredProject
from streamer.sandbox.stdio import Stdio
from streamer.worker import prepare
from streamer.worker.artifacts import Collected, Collection
from streamer.worker.compilecache import CompileCache
from streamer.worker.output import Budget, OutputPump
from streamer.worker.program import Patience, ProgramRun, environment
from streamer.worker.requests import JobRequests
from streamer.worker.stop import Stop
from streamer.worker.streams import connected
from streamer.worker.verdict import Outcome, reason_of
from streamer.worker.writer import Writer

__all__ = ["STOP_S", "Assignment", "CaseOutput", "ExecutionSettings"]

STOP_S: Final = 60.0
"""The time limit from a job's stop to its verdict: more than all waits in between."""


WriteNow = Callable[[Sequence[JobEvent]], bool]
Write = Callable[[Sequence[JobEvent]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    path: str
    blobs: Blobs
    patience: Patience
    on_output_limit: Literal["kill", "truncate"]
    cache: CompileCache
    artifacts: ArtifactsConfig = field(default_factory=ArtifactsConfig)
    outbound: Outbound = field(default_factory=Outbound)


@dataclass(frozen=True, slots=True)
class CaseOutput:
    """Whose output it is: the number of a case, what it may write, and what stops it alone."""

    index: int
    budget: Budget
    stop: Stop


@dataclass(frozen=True, slots=True)
class Assignment:
    """`policy(way=...)` returns the digest for the record.

    `expect_in` says within how many seconds the job, or its present part, will be over, if it is
    not stopped before.
    """

    job: ResolvedJob
    pool: Pool
    settings: ExecutionSettings
    policy: Callable[..., str]
    stop: Stop
    budget: Budget
    writer: Writer
    requests: JobRequests
    expect_in: Callable[[float], None]
    collected: Collected
    """The files that are kept of the job."""
    timeline: Timeline
    session: prepare.Lender | None = None
    """That in whose sandbox the job runs, if it names one."""

    async def opened(
        self,
        held: contextlib.AsyncExitStack,
        job: ResolvedJob | None = None,
        lend: prepare.Lend | None = None,
    ) -> Sandbox:
        """Open a sandbox, which `held` closes; `job` is that of a case.

        Raises `Stopped` and `SandboxFailure`.
        """
        settings = self.settings
        return await prepare.opened(
            job or self.job,
            lend or self.pool.lend,
            settings.path,
            settings.outbound,
            self.stop,
            held,
            self.session,
        )

    async def put_files(
        self,
        sandbox: Sandbox,
        job: ResolvedJob | None = None,
        stop: Stop | None = None,
        build: StoredProject | None = None,
    ) -> None:
        """Write the files of the job, or those of a case, which has its own `stop`.

        Raises `Stopped`, `FilesDoNotFit` and `SandboxFailure`.
        """
        blobs = self.settings.blobs
        await prepare.put_files(job or self.job, sandbox, stop or self.stop, blobs, build)

    async def make_ready(self, sandbox: Sandbox, job: ResolvedJob) -> None:
        """Do ahead what starting the first program takes; whatever keeps it from that, `run` tells.

        The files of the job are in the sandbox.
        """
        if job.output_terminal:
            return  # it has no pipes
        step = job.steps[0]
        with contextlib.suppress(SandboxFailure, OSError):
            stdio = Stdio.pipes(with_input=True)
            await sandbox.make_ready(self._run_of(sandbox, job, step, stdio))

    def _run_of(self, sandbox: Sandbox, job: ResolvedJob, step: Step, stdio: Stdio) -> Run:
        env = environment(job, self.settings.path, sandbox.home)
        return Run(step.argv, env, step.limits, stdio)

    async def tell_state(
        self, state: Literal["compiling", "running"], sandbox: Sandbox, *, first: bool
    ) -> None:
        """Record the job's state and, with its `first` program, how its sandbox was made."""
        policy = self.policy(way=sandbox.way) if first and sandbox.way != "own" else None
        await self.writer.state(state, policy)
        if state == "compiling":
            self.timeline.compiling = time.monotonic()
        else:
            self.timeline.running = time.monotonic()

    async def run(
        self,
        sandbox: Sandbox,
        job: ResolvedJob,
        step: Step,
        case: CaseOutput | None = None,
        heard: Callable[[Sequence[JobEvent]], None] | None = None,
    ) -> tuple[RunEnd, Outcome]:
        """Run one program to its end; return that and its reason.

        `heard` is called with all events of its output.
        """
        write_now: WriteNow = self.writer.write_now
        write: Write = self.writer.write
        if heard is not None:
            write_now, write = _heard_too(heard, write_now, write)
        budget = self.budget if case is None else case.budget
        stop = self.stop if case is None else case.stop
        kills = self.settings.on_output_limit == "kill"
        pump = OutputPump(
            phase=step.phase.value,
            budget=budget,
            as_base64=job.output_encoding == "base64",
            elapsed_ms=self.writer.elapsed_ms,
            write_now=write_now,
            write=write,
            on_exceeded=lambda: self._output_exceeded(stop) if kills else None,
            case=None if case is None else case.index,
        )
        self.writer.program_ended.clear()
        program = ProgramRun(
            sandbox,
            pump,
            self.writer.flush,
            stop,
            self.settings.patience,
            on_start=lambda: self.requests.program_runs_in(sandbox),
            on_end=self.writer.program_ended.set,
        )
        with contextlib.ExitStack() as ours:
            ours.callback(pump.close)
            stdio, feed = await connected(job, step, sandbox, pump, ours)
            if feed is not None and step.phase is Phase.RUN and case is None:
                self.requests.feed_is(feed)
            try:
                end = await program.run(self._run_of(sandbox, job, step, stdio))
            finally:
                self.requests.program_runs_in(None)
                await self.writer.close()
        self.requests.usage.add(end)
        return end, reason_of(end, program.stopped, over_output=kills and budget.exceeded)

    async def collect(self, sandbox: Sandbox) -> None:
        """Keep the files of the job, when all of its programs have ended."""
        settings, job = self.settings, self.job
        collection = Collection(
            sandbox, settings.blobs, job.tenant, settings.artifacts, self.collected
        )
        await collection.run(job.artifacts, self.stop)

    def _output_exceeded(self, stop: Stop) -> None:
        (self.stop if self.budget.exceeded else stop).request("output_limit")


def _heard_too(
    heard: Callable[[Sequence[JobEvent]], None], now: WriteNow, later: Write
) -> tuple[WriteNow, Write]:
    def write_now(events: Sequence[JobEvent]) -> bool:
        if taken := now(events):
            heard(events)
        return taken

    async def write(events: Sequence[JobEvent]) -> None:
        heard(events)
        await later(events)

    return write_now, write

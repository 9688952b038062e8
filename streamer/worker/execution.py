"""Run one job: lay out its files, run its steps, and write its one terminal event.

The route: lease -> user, folder, group, sandbox (`streamer.sandbox.confine`) -> files -> for each
step a program (`program`) -> the verdict (`verdict`) -> the terminal event.
Everything the job started is dead before that event, but for what resists SIGKILL: then the
job ends with an error, and what it holds (its place, user, folder) stays out of use.

Every wait here has a bound or says why it needs none. What fails while the job is tidied up is
logged and never changes its verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from streamer.engine.interface import Lease, LeaseLost
from streamer.errors import SandboxFailure
from streamer.model.events import Complete, Error, JobEvent, Reason, encode
from streamer.model.hosts import HostRule
from streamer.model.job import Phase, Step
from streamer.sandbox.channel import FilesDoNotFit
from streamer.sandbox.confine import Confined, Means, Shape, confine
from streamer.sandbox.driver import Sandbox
from streamer.sandbox.network.proxy import PROXY_PORT, Outbound, Proxy, proxy_environment
from streamer.spi import Backend
from streamer.worker.asked import Asked
from streamer.worker.feed import InputFeed
from streamer.worker.finish import ENGINE_TIMEOUT_S, finish
from streamer.worker.output import Budget, OutputPump
from streamer.worker.program import Patience, ProgramRun, out_of_memory
from streamer.worker.verdict import JobEnd, StopReason, reason_of

__all__ = ["Execution", "ExecutionSettings"]

log: Final = logging.getLogger(__name__)

USER: Final = "nobody"
"""What programs are told of whom they run as; bwrap's /etc/passwd lists it."""

OPEN_S: Final = 60.0
"""For a sandbox to open, whatever its backend waits for."""

STOP_S: Final = 60.0
"""From a job's stop to its verdict: more than all that is waited for on the way."""

TIDY_S: Final = 10.0
"""For what a job holds to be given back, before its terminal event is written all the same."""


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """What the configuration says about running."""

    path: str
    patience: Patience
    on_output_limit: Literal["kill", "truncate"]
    outbound: Outbound = field(default_factory=Outbound)


class Execution:
    """One run of one leased job."""

    def __init__(
        self, lease: Lease, backend: Backend, means: Means, settings: ExecutionSettings
    ) -> None:
        self.lease = lease
        self._job = lease.job
        self._backend = backend
        self._means = means
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._budget = Budget(self._job.limits.output_bytes)
        self._stop: asyncio.Future[StopReason] = self._loop.create_future()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._verdict: asyncio.Future[Complete | Error | None] = self._loop.create_future()
        self._asked = Asked(lease, self.stop)
        self._program_ended = asyncio.Event()
        self.over = asyncio.Event()
        """Set when the job has its terminal event, or is not ours any more."""
        self.resists = False
        """Whether the job is over and something of it does not end."""
        self.failed = False
        """Whether the sandbox could not run the job."""
        self.outcome = ""
        """The reason or the error code the job ended with, once it has."""

    def stop(self, reason: StopReason) -> None:
        """Ask for the end of the job; the first reason stands."""
        if not self._stop.done():
            self._stop.set_result(reason)

    @property
    def input_taken(self) -> int:
        """How many bytes the program has read from its standard input."""
        feed = self._asked.feed
        return feed.result().taken if feed.done() else 0

    async def run(self) -> None:
        """Run the job, write its terminal event, and return when nothing of it is left.

        That last wait has no bound, so see `over`. Raises only `asyncio.CancelledError`.
        """
        listening = [asyncio.create_task(channel) for channel in self._asked.channels()]
        confined = asyncio.create_task(self._confined())
        try:
            await self._until_told(confined)
            await self._finish()
        except asyncio.CancelledError:
            confined.cancel()
            await asyncio.wait({confined}, timeout=TIDY_S)
            # The readers must learn that the job is over.
            self._tell(Error("shutting_down", "the service stopped"))
            await self._finish()
            raise
        finally:
            for task in listening:
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)
        await self._all_given_back(confined)

    async def _until_told(self, confined: asyncio.Task[None]) -> None:
        """Wait for the verdict, and for the end of all that the job started and holds."""
        watched: set[asyncio.Future[Any]] = {confined, self._verdict}
        # Opening, the files and every program have a limit of their own, which ends the wait
        # before; but a sandbox that resists its end would keep the job from being told of it.
        stopped = {*watched, self._stop}
        longest_s = sum(STOP_S + step.limits.wall_time_s for step in self._job.steps)
        await asyncio.wait(
            {*stopped, self._opened},
            timeout=ENGINE_TIMEOUT_S + OPEN_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if self._opened.done():
            await asyncio.wait(
                stopped,
                timeout=longest_s + self._job.limits.wall_time_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if not any(future.done() for future in watched):
            await asyncio.wait(
                watched,
                timeout=self._settings.patience.kill_grace_s + STOP_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
        await asyncio.wait({confined}, timeout=TIDY_S)
        if not confined.done():
            self.resists = True
            log.error(
                "job %s: something of it does not end, or its folder is still being removed",
                self._job.job_id,
            )
        self._tell(Error("sandbox_error", "the sandbox of the job does not end"))

    async def _all_given_back(self, confined: asyncio.Task[None]) -> None:
        try:
            # No bound: what resists SIGKILL may end with the disk that it waits for, or never.
            await confined
        except asyncio.CancelledError:
            await asyncio.wait({confined}, timeout=TIDY_S)
            raise
        except Exception:
            log.exception("job %s: tidying up after it failed", self._job.job_id)
        self.resists = False

    def _tell(self, verdict: Complete | Error | None) -> None:
        """Decide on the verdict, unless there is one."""
        if not self._verdict.done():
            self._verdict.set_result(verdict)

    async def _finish(self) -> None:
        verdict = self._verdict.result()
        if verdict is not None:
            events: list[JobEvent] = [*self._budget.truncated(), verdict]
            if await finish(self.lease, events):
                self.outcome = verdict.reason if isinstance(verdict, Complete) else verdict.code
        self.over.set()

    async def _confined(self) -> None:
        """Run the job to its verdict, then give back what it holds."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                self._tell(await self._run(stack))
            except LeaseLost:
                self._tell(None)
            except FilesDoNotFit:
                self._tell(self._complete(JobEnd(self._job.steps[0].phase.value), "disk"))
            except SandboxFailure as failure:
                log.error("job %s: %s: %s", self._job.job_id, self._backend.name, failure)
                self.failed = True
                self._tell(Error("sandbox_error", "the sandbox could not run the job"))
            except Exception:
                log.exception("job %s: unexpected failure", self._job.job_id)
                self._tell(Error("internal", "the job failed by an internal error"))

    async def _run(self, stack: contextlib.AsyncExitStack) -> Complete | Error:
        await self._state("preparing")
        end = JobEnd(self._job.steps[0].phase.value)
        try:
            confined = await self._prepared(stack)
        except _Stopped:
            return self._ended(end, self._stop.result())
        for step in self._job.steps:
            if self._stop.done():
                return self._ended(end, self._stop.result())
            await self._state("compiling" if step.phase is Phase.COMPILE else "running")
            reason = await self._run_step(confined, step, end)
            if reason != "exited" or end.status != 0:
                return self._ended(end, reason)
        return self._ended(end, "exited")

    async def _prepared(self, stack: contextlib.AsyncExitStack) -> Confined:
        """Open the sandbox and have the files written."""
        shape = Shape(
            secrets.token_hex(8),
            self._job.limits,
            self._environment,
            network=self._job.network,
            read_only=self._job.read_only,
            etc=self._job.etc,
        )
        try:
            async with self._unless_stopped(OPEN_S):
                confined = await stack.enter_async_context(
                    confine(self._backend, self._means, shape, lambda: self.stop("memory"))
                )
                if self._job.allow_hosts:
                    await stack.enter_async_context(await self._proxy(confined.sandbox))
        except TimeoutError:
            raise SandboxFailure(f"the sandbox did not come up within {OPEN_S:.0f} s") from None
        except OSError as error:
            raise SandboxFailure(f"what it needs cannot be had: {error}") from error
        self._opened.set_result(None)
        try:
            async with self._unless_stopped(self._job.limits.wall_time_s):
                await confined.sandbox.put_files(self._job.files, self._job.steps[0].limits)
        except TimeoutError:
            self.stop("wall_time")
            raise _Stopped from None
        return confined

    @asynccontextmanager
    async def _unless_stopped(self, limit_s: float) -> AsyncIterator[None]:
        """Break off what is inside when the job is stopped: raises `_Stopped`, or TimeoutError."""
        try:
            async with asyncio.timeout(limit_s) as limit:

                def cut(_: asyncio.Future[StopReason]) -> None:
                    if inside:  # it may be called on when what is inside has just ended
                        limit.reschedule(self._loop.time())

                inside = True
                self._stop.add_done_callback(cut)
                try:
                    yield
                finally:
                    inside = False
                    self._stop.remove_done_callback(cut)
        except TimeoutError:
            if self._stop.done():
                raise _Stopped from None
            raise

    async def _proxy(self, sandbox: Sandbox) -> Proxy:
        return Proxy(
            await sandbox.listen(PROXY_PORT),
            [HostRule.parse(entry) for entry in self._job.allow_hosts],
            job_id=self._job.job_id,
            outbound=self._settings.outbound,
        )

    async def _run_step(self, confined: Confined, step: Step, end: JobEnd) -> StopReason | Reason:
        """Run one program, add its end to the job's, and tell why it ended."""
        pump = OutputPump(
            phase=step.phase.value,
            budget=self._budget,
            as_base64=self._job.output_encoding == "base64",
            elapsed_ms=self._elapsed_ms,
            write=self._write,
            on_exceeded=self._output_exceeded,
        )
        self._program_ended.clear()

        program = ProgramRun(
            confined,
            step,
            pump,
            self._stop,
            self._settings.patience,
            on_start=lambda: self._asked.program_runs_in(confined.sandbox),
            on_end=self._program_ended.set,
        )
        with contextlib.ExitStack() as ours:
            ours.callback(pump.close)
            feed = self._standard_input(step, ours)
            try:
                result = await program.run(self._environment(confined.sandbox.home), feed)
            finally:
                self._asked.program_runs_in(None)
        end.add(result, step.phase.value)
        return reason_of(
            result,
            program.stopped,
            out_of_memory=out_of_memory(confined.cgroup),
            over_output=self._kills_for_output and self._budget.exceeded,
        )

    def _standard_input(self, step: Step, ours: contextlib.ExitStack) -> InputFeed | None:
        compiling = step.phase is Phase.COMPILE
        given = step.stdin or None if compiling else self._job.stdin
        interactive = self._job.interactive and not compiling
        if given is None and not interactive:
            return None
        feed = InputFeed()
        ours.callback(feed.close)
        if given:
            feed.offer(given)
        if not interactive:
            feed.end()
        if not compiling:
            self._asked.feed.set_result(feed)
        return feed

    def _ended(self, end: JobEnd, reason: StopReason | Reason) -> Complete | Error:
        if reason == "lost":
            raise LeaseLost
        if reason == "shutting_down":
            return Error("shutting_down", "the service stopped before the job was over")
        return self._complete(end, reason)

    def _complete(self, end: JobEnd, reason: Reason) -> Complete:
        return end.complete(
            reason,
            sandbox=self._backend.name,
            output_bytes=self._budget.taken,
            output_truncated=self._budget.exceeded,
        )

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
        return int((time.monotonic() - self.lease.accepted_at) * 1000)

    async def _state(self, state: Literal["preparing", "compiling", "running"]) -> None:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await self.lease.state(state)

    async def _write(self, events: Sequence[JobEvent]) -> None:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await self.lease.append([encode(event) for event in events])
        if self.lease.full and not self._program_ended.is_set():
            # Nothing is read meanwhile, so the program's writes block, at most until its wall
            # limit; a dead one has little left.
            await _first_of(self.lease.room(), self._program_ended.wait())

    @property
    def _kills_for_output(self) -> bool:
        return self._settings.on_output_limit == "kill"

    def _output_exceeded(self) -> None:
        if self._kills_for_output:
            self.stop("output_limit")


class _Stopped(Exception):
    """The job was stopped before its first program."""


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for one of several things and give up the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Run the program of a job once for each of its cases, each time in a sandbox of its own.

So no case can find what an earlier one has left. What a compiler makes is taken out of its sandbox
once (`streamer.worker.build`) and put into each; without a compiler the job's own files are. While
one case runs, the next one's sandbox is opened and filled, and its program made ready up to its
execve(2); and what the last one has left is taken down. Never more are open than the series may
have (`streamer.sandbox.series`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self, cast

from streamer.model.events import CaseEnd, Reason
from streamer.model.job import JobCase, Phase, ResolvedJob
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.series import Series
from streamer.sandbox.shape import FilesDoNotFit, StoredProject
from streamer.worker.assignment import STOP_S, Assignment, CaseOutput
from streamer.worker.compilation import STORE_S, Compilation
from streamer.worker.output import Budget
from streamer.worker.prepare import OPEN_S
from streamer.worker.stop import Stop, Stopped
from streamer.worker.verdict import JobEnd, Outcome
from streamer.worker.writer import ENGINE_TIMEOUT_S

__all__ = ["CaseRuns"]

NO_VERDICT: Final = ("lost", "shutting_down")
"""Reasons with which a job ends without a verdict."""


class CaseRuns:
    def __init__(
        self,
        work: Assignment,
        compilation: Compilation,
        end: JobEnd,
        held: contextlib.AsyncExitStack,
    ) -> None:
        """`end` gets the sum; `held` closes what is open at the end."""
        self._work = work
        self._compilation = compilation
        self._job = work.job
        self._end = end
        self._held = held
        self._told_running = False
        self.ends: list[CaseEnd] = []
        """The verdicts so far."""

    async def run(self) -> Outcome:
        """Return why the first program that did not exit with 0 ended.

        If the job was stopped as a whole it is that reason. Raises `Stopped`, `NotStored`,
        `FilesDoNotFit` and `SandboxFailure`.
        """
        build = await self._compilation.found(self._held)
        if self._compilation.needed and build is None:
            build, reason = await self._compiled()
            if build is None:
                return reason
        series = self._held.enter_context(self._work.pool.series.begin())
        jobs = (_job_of(case, self._job) for case in self._job.cases)
        return await self._run_all(
            await self._held.enter_async_context(_Sandboxes(self._work, series, jobs, build))
        )

    async def _compiled(self) -> tuple[StoredProject | None, Outcome]:
        """Run the compiler; return what it has made, or None, and why it ended."""
        work = self._work
        async with contextlib.AsyncExitStack() as held:
            sandbox = await work.opened(held)
            compiling_s = work.job.steps[0].limits.wall_time_s
            work.expect_in(STOP_S + STORE_S + compiling_s + self._of_a_case_s)
            await work.put_files(sandbox)
            reason = await self._compilation.run(sandbox)
            if reason != "exited" or self._end.status != 0:
                return None, reason
            return await self._compilation.stored(sandbox, self._held), reason
        raise AssertionError

    @property
    def _of_a_case_s(self) -> float:
        """How long a case takes at most, with its files."""
        return OPEN_S + STOP_S + 2 * self._job.limits.wall_time_s

    async def _run_all(self, sandboxes: _Sandboxes) -> Outcome:
        failed: tuple[Outcome, int | None] | None = None
        for index in range(len(self._job.cases)):
            if self._work.stop.reason is not None:
                return self._work.stop.reason
            self._work.expect_in(self._of_a_case_s)
            reason, status = await self._run_case(index, sandboxes)
            if reason in NO_VERDICT or reason == self._work.stop.reason:
                return reason
            if failed is None and (reason != "exited" or status != 0):
                failed = reason, status
                if self._job.stop_on_failure:
                    break
        reason, self._end.status = failed or ("exited", 0)
        return reason

    async def _run_case(self, index: int, sandboxes: _Sandboxes) -> tuple[Outcome, int | None]:
        """Run a case and tell its verdict; return its reason and wait status."""
        work = self._work
        budget = Budget(self._job.cases[index].step.limits.output_bytes, work.budget)
        end = JobEnd(Phase.RUN.value)
        reason: Outcome
        try:
            ready = await sandboxes.next()
            if not self._told_running:
                self._told_running = True
                first = not self._compilation.needed or self._compilation.cached
                await work.tell_state("running", ready.sandbox, first=first)
            output = CaseOutput(index, budget, ready.stop)
            result, reason = await work.run(ready.sandbox, ready.job, ready.job.steps[0], output)
            sandboxes.close_last()
            end.add(result, Phase.RUN.value)
            self._end.add(result, Phase.RUN.value)
        except FilesDoNotFit:
            reason = "disk"
        except Stopped:
            reason = work.stop.reason or "wall_time"  # of the files
        if reason not in NO_VERDICT:
            told = end.of_case(
                cast("Reason", reason),
                index=index,
                name=self._job.cases[index].name,
                output_bytes=budget.taken,
                output_truncated=budget.cut,
                t=work.writer.elapsed_ms(),
            )
            self.ends.append(told)
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                if not work.writer.write_now([told]):
                    await work.writer.write([told])
                await work.writer.flush()
        return reason, end.status


def _job_of(case: JobCase, job: ResolvedJob) -> ResolvedJob:
    """Return a case as a job of its own, without a compiler."""
    return replace(
        job,
        steps=(case.step,),
        env={**job.env, **case.env},
        stdin=job.stdin if case.stdin is None else case.stdin,
        cases=(),
    )


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sandbox that has the files of a case; `stop` is that of the case."""

    job: ResolvedJob
    sandbox: Sandbox
    stop: Stop
    held: contextlib.AsyncExitStack


class _Sandboxes:
    """The sandboxes of the cases, as an asynchronous context manager that closes them."""

    def __init__(
        self,
        work: Assignment,
        series: Series,
        jobs: Iterator[ResolvedJob],
        build: StoredProject | None,
    ) -> None:
        self._work = work
        self._build = build
        self._series = series
        self._jobs = jobs
        self._opening: asyncio.Task[_Ready] | None = None
        self._used: _Ready | None = None
        self._closing: set[asyncio.Task[None]] = set()
        """Those of earlier cases, as long as they last; and those that have failed."""

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        async with contextlib.AsyncExitStack() as rest:  # each, whatever the others raise
            if self._closing:
                rest.push_async_callback(asyncio.wait, tuple(self._closing))
            if self._used is not None:
                rest.push_async_callback(self._used.held.aclose)
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.wait({self._opening})
                if not self._opening.cancelled() and self._opening.exception() is None:
                    rest.push_async_callback(self._opening.result().held.aclose)
        await asyncio.gather(*self._closing)

    async def next(self) -> _Ready:
        """Return the sandbox of the next case. Raises `Stopped`, `FilesDoNotFit` and others."""
        if self._opening is None:
            self._begin()
        assert self._opening is not None
        if not self._opening.done():
            await asyncio.wait({self._opening})
        opening, self._opening = self._opening, None
        if self._series.most > 1:
            self._begin(beside=1)
        self._used = opening.result()
        return self._used

    def close_last(self) -> None:
        """Begin to close the sandbox of the case that is over."""
        assert self._used is not None
        closing = asyncio.create_task(self._used.held.aclose())
        self._closing.add(closing)
        closing.add_done_callback(self._closed)
        self._used = None

    def _closed(self, closing: asyncio.Task[None]) -> None:
        if not closing.cancelled() and closing.exception() is None:
            self._closing.discard(closing)

    def _begin(self, *, beside: int = 0) -> None:
        """Begin to open the next one, `beside` so many in use."""
        job = next(self._jobs, None)
        if job is not None:
            most_closing = self._series.most - 1 - beside
            self._opening = asyncio.create_task(self._opened(job, most_closing))

    async def _opened(self, job: ResolvedJob, most_closing: int) -> _Ready:
        while len(closing := [task for task in self._closing if not task.done()]) > most_closing:
            await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
        async with contextlib.AsyncExitStack() as held:
            stop = held.enter_context(self._work.stop.part())
            sandbox = await self._work.opened(held, job, self._series.lend)
            await self._work.put_files(sandbox, job, stop, self._build)
            await self._work.make_ready(sandbox, job)
            return _Ready(job, sandbox, stop, held.pop_all())
        raise AssertionError

"""Run one job: get its sandbox and files, run its steps, and write its one terminal event.

The route: lease -> sandbox and files (`prepare`) -> for each step a program (`steps`, `program`),
or for each case a sandbox and a program (`cases`) -> the verdict (`verdict`), and the files that
are kept (`artifacts`) -> the terminal event (`writer`).
Everything the job started is dead before that event. If a process resists SIGKILL the job ends
with an error, and its place, user and folder are not used again.

Every wait here has a time limit, or a comment why it needs none. Failures during the cleanup are
logged and never change the verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from streamer.engine.blobs import JobFile
from streamer.engine.interface import Lease, LeaseLost
from streamer.errors import SandboxFailure
from streamer.model.events import Complete, Error, JobEvent, Reason
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import FilesDoNotFit
from streamer.worker import prepare
from streamer.worker.artifacts import Collected, discard
from streamer.worker.assignment import STOP_S, Assignment, ExecutionSettings
from streamer.worker.build import NoRoom
from streamer.worker.cases import CaseRuns
from streamer.worker.compilation import Compilation
from streamer.worker.output import Budget
from streamer.worker.requests import JobRequests
from streamer.worker.steps import run_steps
from streamer.worker.stop import Stop, Stopped
from streamer.worker.verdict import JobEnd, Outcome, StopReason
from streamer.worker.writer import ENGINE_TIMEOUT_S, Writer, finish

__all__ = ["Execution"]

log: Final = logging.getLogger(__name__)

TIDY_S: Final = 10.0
"""How long to wait for the cleanup of a job before its terminal event is written anyway."""


class Execution:
    def __init__(
        self,
        lease: Lease,
        pool: Pool,
        settings: ExecutionSettings,
        policy: Callable[..., str],
        on_resisting: Callable[[], None],
    ) -> None:
        """`policy(way=...)` returns the digest for the record.

        `on_resisting` is called when `resists` is set.
        """
        self.lease = lease
        self._policy = policy
        self._on_resisting = on_resisting
        self._job = lease.job
        self._pool = pool
        self._settings = settings
        self._budget = Budget(self._job.limits.output_bytes)
        self._stop = Stop()
        self._writer = Writer(lease, lambda: self.stop("lost"))
        self._verdict: asyncio.Future[Complete | Error | None] = asyncio.Future()
        self._waiting: asyncio.Timeout | None = None
        """The time limit for the verdict and the cleanup, while they are waited for."""
        self._requests = JobRequests(lease, self.stop)
        self._compilation: Compilation | None = None
        self._cases: CaseRuns | None = None
        self._collected = Collected()
        self.over = asyncio.Event()
        """Set when the job has its terminal event, or the lease was lost."""
        self.resists = False
        """Whether the job is over but a process of it resists SIGKILL."""
        self.failed = False
        """Whether the sandbox could not run the job."""
        self.outcome = ""
        """The reason or the error code with which the job has ended."""

    def stop(self, reason: StopReason) -> None:
        """Stop the job; only the first reason counts."""
        self._stop.request(reason)

    @property
    def input_taken(self) -> int:
        """The number of bytes that the program has read from its standard input."""
        feed = self._requests.feed
        return feed.result().taken if feed.done() else 0

    async def run(self) -> None:
        """Run the job, write its terminal event, and return when nothing is left of it.

        The last wait is unbounded; use `over` to wait for the terminal event. Raises only
        `asyncio.CancelledError`.
        """
        listening = [asyncio.create_task(channel) for channel in self._requests.channels()]
        confined = asyncio.create_task(self._confined())
        try:
            await self._until_told(confined)
            await self._finish()
        except asyncio.CancelledError:
            confined.cancel()
            await asyncio.wait({confined}, timeout=TIDY_S)
            # Readers must get a terminal event.
            self._tell(Error("shutting_down", "the service stopped"))
            await self._finish()
            raise
        finally:
            # Usually they have ended with the job.
            if left := [task for task in listening if not task.done()]:
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
        await self._all_given_back(confined)

    async def _until_told(self, confined: asyncio.Task[None]) -> None:
        """Wait for the verdict and the cleanup, within time limits."""
        # Opening, the files and every program have their own limits, which usually end the wait
        # earlier; but with a sandbox that cannot be closed the job would never end.
        self._stop.requested.add_done_callback(lambda _: self._stopped_in(0))
        try:
            with contextlib.suppress(Exception):  # of the cleanup: `_all_given_back` logs it
                async with asyncio.timeout(None) as self._waiting:
                    self._stopped_in(ENGINE_TIMEOUT_S + prepare.OPEN_S)
                    await asyncio.shield(confined)
        finally:
            self._waiting = None
        if not confined.done():
            self.resists = True
            self._on_resisting()
            what = "a process of it does not die, or its folder is still being removed"
            log.error("job %s: %s", self._job.job_id, what)
        self._tell(Error("sandbox_error", "the sandbox of the job cannot be closed"))

    async def _all_given_back(self, confined: asyncio.Task[None]) -> None:
        try:
            # Unbounded: a process that resists SIGKILL may die when its disk answers, or never.
            await confined
        except asyncio.CancelledError:
            await asyncio.wait({confined}, timeout=TIDY_S)
            raise
        except Exception:
            log.exception("job %s: the cleanup failed", self._job.job_id)
        self.resists = False

    def _stopped_in(self, seconds: float) -> None:
        """Expect the verdict as long after these seconds as it may take after a stop."""
        if not self._verdict.done():
            seconds += self._settings.artifacts.timeout_s if self._job.artifacts else 0
            self._over_in(seconds + self._settings.patience.kill_grace_s + STOP_S + TIDY_S)

    def _over_in(self, seconds: float) -> None:
        """Wait for so many seconds more."""
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time() + seconds)

    def _tell(self, verdict: Complete | Error | None) -> None:
        if not self._verdict.done():
            self._verdict.set_result(verdict)
            self._over_in(TIDY_S)

    async def _finish(self) -> None:
        files = self._collected.files
        if (verdict := self._verdict.result()) is not None:
            events: list[JobEvent] = [*self._budget.truncated()]
            kept: list[JobFile] = []
            if isinstance(verdict, Complete):
                kept, files = files, []
                events += self._collected.events(self._job)
            if await finish(self.lease, [*events, verdict], kept):
                self.outcome = verdict.reason if isinstance(verdict, Complete) else verdict.code
            else:
                files = [*files, *kept]
        self.over.set()
        if files:
            await discard(self._settings.blobs, files)

    async def _confined(self) -> None:
        """Run the job to its verdict, then clean up."""
        async with contextlib.AsyncExitStack() as held:
            end = JobEnd(self._job.steps[0].phase.value)
            try:
                self._tell(self._ended(end, await self._run(end, held)))
            except LeaseLost:
                self._tell(None)
            except FilesDoNotFit:
                self._tell(self._complete(end, "disk"))
            except NoRoom as failure:
                self._tell(Error("sandbox_error", str(failure)))
            except SandboxFailure as failure:
                log.error("job %s: %s: %s", self._job.job_id, self._job.backend, failure)
                self.failed = True
                self._tell(Error("sandbox_error", "the sandbox could not run the job"))
            except Exception:
                log.exception("job %s: unexpected failure", self._job.job_id)
                self._tell(Error("internal", "the job failed with an internal error"))

    async def _run(self, end: JobEnd, held: contextlib.AsyncExitStack) -> Outcome:
        await self._writer.state("preparing", self._policy(way="own"))
        work = Assignment(
            job=self._job,
            pool=self._pool,
            settings=self._settings,
            policy=self._policy,
            stop=self._stop,
            budget=self._budget,
            writer=self._writer,
            requests=self._requests,
            expect_in=self._stopped_in,
            collected=self._collected,
        )
        self._compilation = compilation = Compilation(work, end)
        try:
            if self._job.cases:
                self._cases = CaseRuns(work, compilation, end, held)
                return await self._cases.run()
            return await run_steps(work, compilation, end, held)
        except Stopped:
            return self._stop.requested.result()

    def _ended(self, end: JobEnd, reason: Outcome) -> Complete | Error:
        if reason == "lost":
            raise LeaseLost
        if reason == "shutting_down":
            return Error("shutting_down", "the service stopped before the job was over")
        return self._complete(end, reason)

    def _complete(self, end: JobEnd, reason: Reason) -> Complete:
        return end.complete(
            reason,
            sandbox=self._job.backend,
            output_bytes=self._budget.taken,
            output_truncated=self._budget.cut,
            cached=self._compilation is not None and self._compilation.cached,
            cases=None if self._cases is None else tuple(self._cases.ends),
            artifacts_failed=tuple(self._collected.failed),
        )

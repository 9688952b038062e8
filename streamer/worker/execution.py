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
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from streamer.bounded import within
from streamer.engine.blobs import JobFile
from streamer.engine.interface import Lease, LeaseLost
from streamer.errors import SandboxFailure
from streamer.model.events import Complete, Error, JobEvent, Reason
from streamer.model.job import ResolvedJob
from streamer.model.logfields import about
from streamer.model.timeline import Timeline
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import FilesDoNotFit, PathRefused
from streamer.worker import prepare
from streamer.worker.artifacts import Collected, discard
from streamer.worker.assignment import STOP_S, Assignment, ExecutionSettings
from streamer.worker.build import NotStored
from streamer.worker.cases import CaseRuns
from streamer.worker.compilation import Compilation
from streamer.worker.output import Budget
from streamer.worker.requests import JobRequests
from streamer.worker.steps import run_steps
from streamer.worker.stop import Stop, Stopped
from streamer.worker.verdict import JobEnd, Outcome, StopReason
from streamer.worker.writer import ENGINE_TIMEOUT_S, Writer, finish

__all__ = ["Execution", "OnOver"]

log: Final = logging.getLogger(__name__)

OnOver = Callable[[ResolvedJob, Timeline, Complete | Error], None]
"""Called when the log of a job has its verdict."""

TIDY_S: Final = 10.0
"""How long to wait for the cleanup of a job before its terminal event is written anyway."""


IN_THE_WAY: Final = "what an earlier job of the session has left is in the way of a file"


class Execution:
    def __init__(
        self,
        lease: Lease,
        pool: Pool,
        settings: ExecutionSettings,
        policy: Callable[..., str],
        on_resisting: Callable[[], None],
        session: prepare.Lender | None = None,
    ) -> None:
        """`policy(way=...)` returns the digest for the record.

        `on_resisting` is called when `resists` is set. With a `session` it runs in that's sandbox.
        """
        self.lease = lease
        self._attempt: int = getattr(lease, "attempt", 1)  # an engine may know no others
        self._policy = policy
        self._on_resisting = on_resisting
        self._session = session
        self._job = lease.job
        self._about = about(lease.job.job_id, lease.job.tenant)
        self._pool = pool
        self._settings = settings
        self._budget = Budget(self._job.limits.output_bytes)
        self._stop = Stop()
        self._writer = Writer(lease, partial(self._stop.request, "lost"))
        self._verdict: asyncio.Future[Complete | Error | None] = asyncio.Future()
        self._waiting: asyncio.Timeout | None = None
        """The time limit for the verdict and the cleanup, while they are waited for."""
        self._requests = JobRequests(lease, self._stop.request)
        self._compilation: Compilation | None = None
        self._cases: CaseRuns | None = None
        self._collected = Collected()
        self.on_over: OnOver = lambda *_: None
        self.timeline = Timeline(lease.accepted_at, time.monotonic())
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
            await self._finish(clean=confined.done())
        except asyncio.CancelledError:
            confined.cancel()
            await asyncio.wait({confined}, timeout=TIDY_S)
            # Readers must get a terminal event.
            self._tell(Error("shutting_down", "the service stopped"))
            await self._finish(clean=confined.done())
            raise
        finally:
            # Usually they have ended with the job.
            if left := [task for task in listening if not task.done()]:
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
            await self._requests.usage.close()
        await self._all_given_back(confined)

    async def _until_told(self, confined: asyncio.Task[None]) -> None:
        """Wait for the verdict and the cleanup, within time limits."""

        # Opening, the files and every program have their own limits, which usually end the wait
        # earlier; but with a sandbox that cannot be closed the job would never end.
        def stopped(_: object) -> None:
            self._stopped_in(0)

        self._stop.requested.add_done_callback(stopped)
        try:
            with contextlib.suppress(Exception):  # of the cleanup: `_all_given_back` logs it
                async with asyncio.timeout(None) as self._waiting:
                    self._stopped_in(ENGINE_TIMEOUT_S + prepare.OPEN_S)
                    await asyncio.shield(confined)
        finally:
            self._waiting = None
            self._stop.requested.remove_done_callback(stopped)
        if not confined.done():
            self.resists = True
            self._on_resisting()
            what = "a process of it does not die, or its folder is still being removed"
            log.error("job %s: %s", self._job.job_id, what, extra=self._about)
        self._tell(Error("sandbox_error", "the sandbox of the job cannot be closed"))

    async def _all_given_back(self, confined: asyncio.Task[None]) -> None:
        try:
            # Unbounded: a process that resists SIGKILL may die when its disk answers, or never.
            await confined
        except asyncio.CancelledError:
            await asyncio.wait({confined}, timeout=TIDY_S)
            raise
        except Exception:
            log.exception("job %s: the cleanup failed", self._job.job_id, extra=self._about)
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
            self.timeline.judged = time.monotonic()
            self._over_in(TIDY_S)

    async def _finish(self, *, clean: bool) -> None:
        """Write the terminal event, if the job has one here; `clean` if nothing of it runs."""
        files = self._collected.files
        verdict = self._verdict.result()
        if isinstance(verdict, Error) and verdict.code == "shutting_down":
            self.outcome = verdict.code
            if clean and await self._given_back():
                verdict = None
        if verdict is not None:
            events: list[JobEvent] = [*self._budget.truncated()]
            kept: list[JobFile] = []
            if isinstance(verdict, Complete):
                kept, files = files, []
                events += self._collected.events(self._job)
            ended = await finish(self.lease, [*events, verdict], kept)
            if ended:
                self.outcome = verdict.reason if isinstance(verdict, Complete) else verdict.code
                self._tell_over(verdict)
            elif ended is not None:  # otherwise the job may have them; if not, they expire
                files = [*files, *kept]
        self.over.set()
        if files:
            await discard(self._settings.blobs, files)

    async def _given_back(self) -> bool:
        """Return whether the job waits again, to be run elsewhere."""
        if self._attempt > self._job.retry:
            return False
        try:
            return await within(ENGINE_TIMEOUT_S, self.lease.release(ran=True))
        except Exception:
            log.exception("job %s: it could not be given back", self._job.job_id, extra=self._about)
            return False

    def _tell_over(self, verdict: Complete | Error) -> None:
        self.timeline.finished = time.monotonic()
        try:
            self.on_over(self._job, self.timeline, verdict)
        except Exception:
            log.exception("job %s: what measures it failed", self._job.job_id, extra=self._about)

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
            except NotStored as failure:
                self._tell(Error("sandbox_error", str(failure)))
            except SandboxFailure as failure:
                log.error(
                    *("job %s: %s: %s", self._job.job_id, self._job.backend, failure),
                    extra=self._about,
                )
                # What earlier jobs have done in a session says nothing of others.
                self.failed = self._session is None
                in_the_way = self._session is not None and isinstance(failure, PathRefused)
                why = IN_THE_WAY if in_the_way else "the sandbox could not run the job"
                self._tell(Error("sandbox_error", why))
            except Exception:
                log.exception("job %s: unexpected failure", self._job.job_id, extra=self._about)
                self._tell(Error("internal", "the job failed with an internal error"))
            finally:
                # They refer to this, which would wait for the garbage collector with all that the
                # job was submitted with.
                self._compilation = self._cases = None

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
            timeline=self.timeline,
            session=self._session,
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
            attempts=self._attempt,
        )

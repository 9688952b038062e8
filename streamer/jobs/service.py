"""Accept jobs, run them on a bounded number of workers, and stop in good order. Knows no HTTP.

One `JobService` is one application's: its engine, its backends, its workers. Jobs enter by
`submit` and are followed through the `Job` it returns.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Literal, Self

from streamer.config.schema import Config
from streamer.engine.interface import (
    CancelResult,
    Engine,
    Eof,
    Idempotency,
    Input,
    JobView,
    Lease,
    Signal,
    Stats,
)
from streamer.engine.measures import JobMeasures
from streamer.errors import Draining, UnknownJob
from streamer.eventlog.joblog import Event, JobLog
from streamer.jobs.resolve import Resolver
from streamer.model.events import Complete, Error
from streamer.model.job import JobSpec
from streamer.model.runtime import Runtime
from streamer.model.typed import as_bytes, as_signal, typed_spec
from streamer.sandbox.cgroups import CgroupTree, cgroup_tree
from streamer.sandbox.confine import Means
from streamer.sandbox.enforcement import check_required
from streamer.sandbox.registry import Backends
from streamer.sandbox.slots import UidSlots
from streamer.sandbox.workspace import StateFolder, state_folder
from streamer.worker.execution import Execution, ExecutionSettings
from streamer.worker.finish import finish
from streamer.worker.policy import policy_digest
from streamer.worker.program import Patience
from streamer.worker.tools import missing_path

__all__ = ["Job", "JobService"]

log: Final = logging.getLogger(__name__)

CLAIM_RETRY_S: Final = 1.0
END_S: Final = 90.0
"""For all jobs to end once they are stopped; each has its own, shorter bounds."""


class Job:
    """A handle on one accepted job."""

    def __init__(self, engine: Engine, job_id: str, *, replayed: bool = False) -> None:
        self._engine = engine
        self.id = job_id
        self.replayed = replayed
        """Whether it was there before: its submission came again, with its idempotency key."""

    async def log(self) -> JobLog:
        """Return the job's log. Raises `UnknownJob` once it has expired."""
        return await self._engine.open(self.id)

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the job's events after number `after`, then live ones, to the terminal one."""
        async with aclosing((await self.log()).events(after)) as events:
            async for event in events:
                yield event

    async def view(self) -> JobView:
        """Return a snapshot. Raises `UnknownJob` once it has expired."""
        view = await self._engine.status(self.id)
        if view is None:
            raise UnknownJob(f"there is no job {self.id!r}")
        return view

    async def result(self) -> Complete | Error:
        """Wait for the end of the job and return its terminal event."""
        job_log = await self.log()
        while not job_log.done:
            await job_log.wait(job_log.last_id)
        end = job_log.end
        assert isinstance(end, Complete | Error)
        return end

    async def cancel(self) -> CancelResult:
        """End the job if it is queued, or ask for its end. Idempotent."""
        return await self._engine.cancel(self.id)

    async def write(self, data: bytes | str) -> Literal["accepted", "closed"]:
        """Send bytes, or text, to the program's standard input; ``closed`` when it takes none."""
        return await self._engine.send(self.id, Input(as_bytes(data)))

    async def end_input(self) -> Literal["accepted", "closed"]:
        """End the program's standard input."""
        return await self._engine.send(self.id, Eof())

    async def signal(self, number: int | str) -> Literal["accepted", "closed"]:
        """Send a signal to the program, by number or name; ``closed`` when it is over."""
        return await self._engine.send(self.id, Signal(as_signal(number)))


class JobService:
    """The service behind one application. Use it as an asynchronous context manager.

    Entering it finds the sandbox and starts the workers: it raises `BackendUnavailable`
    when the configured sandbox does not work here, and falls back to no weaker one.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        backends: Backends,
        runtimes: Mapping[str, Runtime],
        missing_runtimes: Mapping[str, str],
        measures: JobMeasures | None = None,
    ) -> None:
        """The engine reports jobs that are over to `measures`; else what ran here is counted."""
        self.config = config
        self.engine = engine
        self.backends = backends
        self.runtimes = runtimes
        self.missing_runtimes = missing_runtimes
        self.concurrency = config.queue.places
        self.measures = measures or JobMeasures()
        self._engine_reports = measures is not None
        self.draining = asyncio.Event()
        self._resolver = Resolver(config, runtimes, missing_runtimes)
        self._settings = ExecutionSettings(
            path=config.sandbox.path,
            patience=Patience(config.sandbox.kill_grace_s, config.sandbox.linger_s),
            on_output_limit=config.streams.on_output_limit,
        )
        self._strict = config.sandbox.seccomp == "strict"
        self._running: dict[asyncio.Task[None], Execution] = {}
        self._refusing: set[asyncio.Task[bool]] = set()
        self._hurried = asyncio.Event()
        self.on_start: Callable[[Execution], None] = lambda _: None  # hears of each job that begins
        self._resources = contextlib.AsyncExitStack()
        self._folder: StateFolder | None = None
        self._means: Means | None = None
        self._cgroups: CgroupTree | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """What this service does all the time, by name; see `ready`."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._cgroups = stack.enter_context(cgroup_tree(self.config.sandbox.cgroup))
            means = await stack.enter_async_context(self._place(self.concurrency, self._cgroups))
            self._means, self._folder = means, means.folder
            await self.backends.find_default()
            await self.backends.reasons(self.config.sandbox.allow)
            self._check_required()
            for runtime in self.config.runtimes.values():
                if reason := missing_path(runtime):
                    log.warning("the language %s is not offered: %s", runtime.name, reason)
            if not self.offers_programs:
                log.warning(
                    "no language works here: look at sandbox.path (%s) and at `streamer runtimes`",
                    self.config.sandbox.path,
                )
            await self.engine.start(means.folder.path)
            self._resources = stack.pop_all()
        for name, work in (
            ("streamer-claim", self._claim_jobs()),
            ("streamer-leases", self._keep_leases()),
            ("streamer-trials", self.backends.keep_trying()),
        ):
            self._tasks[name] = asyncio.create_task(work, name=name)
            self._tasks[name].add_done_callback(_report_end)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0)
        # What resists its end has had its time.
        left = {*self._tasks.values(), *self._running, *self._refusing}
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=END_S)
        await self.engine.close()
        await self._resources.aclose()

    def _check_required(self) -> None:
        for name in {self.backends.default, *self.config.sandbox.allow} & self.backends.keys():
            check_required(self.config.sandbox.require, self.backends[name], self.cgroup_level)

    @asynccontextmanager
    async def trial(self) -> AsyncIterator[Backends]:
        """Lend the backends for trying them as jobs get them, without starting the service."""
        with cgroup_tree(self.config.sandbox.cgroup) as cgroups:
            async with self._place(0, cgroups):
                yield self.backends

    @asynccontextmanager
    async def _place(self, users: int, cgroups: CgroupTree | None) -> AsyncIterator[Means]:
        """Make what jobs are confined with; trials have a user of their own."""
        async with contextlib.AsyncExitStack() as stack:
            where, places = self.config.server.state_dir, self.config.queue.places
            folder = stack.enter_context(state_folder(where, places=places))
            slots, spare = None, None
            if folder.host.root:
                slots = UidSlots(self.config.sandbox.uid_base, users)
                stack.callback(slots.close)
                spare = UidSlots(self.config.sandbox.uid_base, 1)
                stack.callback(spare.close)
            means = Means(folder, slots, cgroups, self._strict)
            await stack.enter_async_context(self.backends.settled(replace(means, slots=spare)))
            yield means

    @property
    def offers_programs(self) -> bool:
        """Whether this host has a language at all, or callers may send commands."""
        names = {runtime.name for runtime in self.runtimes.values()}
        return self.config.sandbox.allow_command or bool(names - self.missing_runtimes.keys())

    @property
    def cgroup_level(self) -> str | None:
        """``cgroup-v1`` or ``cgroup-v2`` where jobs have control groups, once started."""
        return None if self._cgroups is None else self._cgroups.level

    @property
    def ready(self) -> bool:
        """Whether jobs are taken: started, at work, and not draining."""
        working = all(not task.done() for task in self._tasks.values())
        return bool(self._tasks) and working and not self.draining.is_set()

    @property
    def resisting(self) -> int:
        """How many places are lost to ended jobs of which something resists its end."""
        return sum(execution.resists for execution in self._running.values())

    async def submit(
        self,
        spec: JobSpec,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Job:
        """Accept a job and return at once.

        `tenant` is whose job it is: only requests of that tenant may read it. Raises `InvalidJob`,
        `Forbidden` or `Conflict` when the job is at fault, `Busy` when the queue is full,
        `Draining` when the service is shutting down or has not started.
        """
        if not isinstance(tenant, str):
            raise TypeError(f"tenant is a str, not a {type(tenant).__name__}")
        spec = typed_spec(spec)
        if not self._tasks:
            raise Draining(
                "the service has not started yet: submit once the application has",
                retry_after_s=5.0,
            )
        if idempotency is None and self.draining.is_set():  # with a key the engine knows
            raise Draining("the service is shutting down and takes no new jobs", retry_after_s=5.0)
        job = self._resolver.resolve(
            spec,
            _new_job_id(),
            default_backend=self.backends.default,
            unavailable=self.backends.known({self.backends.default, *self.config.sandbox.allow}),
            filtering=self.backends.filtering,
        )
        backend = self.backends[job.backend]
        job = replace(
            job,
            preset=self.config.sandbox.preset,
            policy=policy_digest(
                job,
                backend,
                self.cgroup_level,
                strict_filter=self._strict,
            ),
        )
        submitted = await self.engine.submit(job, tenant=tenant, idempotency=idempotency)
        return Job(self.engine, submitted.job_id, replayed=not submitted.created)

    def job(self, job_id: str) -> Job:
        """Return a handle on a job by its id; the handle's methods say if there is none."""
        return Job(self.engine, job_id)

    async def drain(self, timeout_s: float) -> None:
        """Take no more jobs, end the queued ones, and give the running ones `timeout_s`.

        After that the running ones are killed, which has a bound too. Every log has its
        terminal event when this returns. `hurry` cuts the time short. Idempotent.
        """
        self.draining.set()
        await self.engine.drain()
        if claiming := self._tasks.get("streamer-claim"):
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)
        running = [e for e in self._running.values() if not e.over.is_set()]
        # As tasks of their own, since an execution goes on while something of it resists.
        over: set[asyncio.Task[Any]] = {
            asyncio.create_task(execution.over.wait()) for execution in running
        }
        if over and timeout_s > 0:
            hurried = asyncio.create_task(self._hurried.wait())
            finished = asyncio.ensure_future(asyncio.wait(over))
            await asyncio.wait(
                {hurried, finished}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            hurried.cancel()
            finished.cancel()
        for execution in running:
            execution.stop("shutting_down")
        over |= self._refusing
        if over:
            # Each is bounded by itself; this is for the case that one is not.
            await asyncio.wait(over, timeout=END_S + self.config.sandbox.kill_grace_s)
        for task in over:
            task.cancel()

    def hurry(self) -> None:
        """Let a `drain` that is under way wait no longer."""
        self._hurried.set()

    async def estimated_wait_s(self) -> float:
        """Return how long a job submitted now would wait, judging by the last ones, in seconds."""
        return round((await self.engine.stats()).estimated_wait_s, 2)

    async def stats(self) -> Stats:
        """Return how busy the engine is."""
        return await self.engine.stats()

    async def _claim_jobs(self) -> None:
        worker = secrets.token_hex(8)
        while True:
            free = self.concurrency - len(self._running)
            if free <= 0:
                await asyncio.wait(set(self._running), return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                leases: Sequence[Lease] = await self.engine.claim(worker, free)
            except Exception:
                log.exception("the engine gave no jobs; trying again")
                await asyncio.sleep(CLAIM_RETRY_S)
                continue
            for lease in leases:
                try:
                    self._start(lease)
                except Exception:
                    # Nothing that one job brings may end this loop.
                    log.exception("job %s cannot be run here", lease.job.job_id)
                    self._refuse(lease)

    def _refuse(self, lease: Lease) -> None:
        failure = Error("sandbox_error", "this worker cannot run the job")
        task = asyncio.create_task(finish(lease, [failure]))
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)

    def _start(self, lease: Lease) -> None:
        assert self._means is not None
        name = lease.job.backend
        execution = Execution(lease, self.backends[name], self._means, self._settings)
        task = asyncio.create_task(execution.run(), name=f"streamer-job-{lease.job.job_id}")
        self._running[task] = execution
        self.on_start(execution)

        def ended(task: asyncio.Task[None]) -> None:
            del self._running[task]
            if execution.outcome and not self._engine_reports:
                self.measures.outcomes[execution.outcome] += 1
            if execution.failed or execution.outcome != "shutting_down":
                self.backends.job_ended(name, failed=execution.failed)
            if not task.cancelled() and task.exception() is not None:
                log.error("job %s: unexpected failure", lease.job.job_id, exc_info=task.exception())

        task.add_done_callback(ended)

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self.engine.heartbeat_s)
            try:
                await self.engine.heartbeat(
                    [e.lease for e in self._running.values() if not e.over.is_set()]
                )
                await self.engine.reap()
            except Exception:
                log.exception("the engine did not take the heartbeat")


def _report_end(task: asyncio.Task[None]) -> None:
    """Say that a task which never ends has ended; `JobService.ready` tells it too."""
    if not task.cancelled():
        log.critical("%s has ended", task.get_name(), exc_info=task.exception())


def _new_job_id() -> str:
    """Return 128 random bits as 26 letters and digits: who has it may read the job."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

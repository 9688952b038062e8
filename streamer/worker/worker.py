"""The worker: claims jobs from the engine, runs them, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Self

from streamer.bounded import within
from streamer.config.schema import Config
from streamer.engine.endings import SHUT_DOWN
from streamer.engine.interface import Engine, Lease
from streamer.engine.lifetime import answer_at_start, started
from streamer.model.capabilities import Accepts, Ahead, Capabilities
from streamer.model.events import Error
from streamer.model.logfields import about
from streamer.sandbox.pool import Pool
from streamer.sandbox.registry import Backends
from streamer.worker.assignment import ExecutionSettings
from streamer.worker.compilecache import CompileCache
from streamer.worker.execution import Execution, OnOver
from streamer.worker.handover import given_back
from streamer.worker.host import WorkerHost
from streamer.worker.leases import Leases
from streamer.worker.policy import PolicyDigest, policy_digest
from streamer.worker.program import Patience
from streamer.worker.sessions import WorkerSessions
from streamer.worker.writer import ENGINE_TIMEOUT_S, finish, repeated

__all__ = ["Worker"]

log: Final = logging.getLogger(__name__)

CLAIM_RETRY_S: Final = 1.0
CALL_TRIES: Final = 4
"""Before an engine whose connection was lost counts as away; the pauses between them are short."""
WITHDRAW_S: Final = 5.0
"""How long to wait, when it stops, for an engine that forgets it in any case."""
CANNOT_RUN: Final = Error("sandbox_error", "this worker cannot run the job")
END_S: Final = 90.0
"""How long all jobs may take to end once they are stopped; each has its own, shorter limits."""


class Worker:
    """Runs the jobs of an engine. Use it as an asynchronous context manager.

    Entering it tests the sandbox, starts the engine and begins to claim jobs. It raises
    `BackendUnavailable` if the configured sandbox does not work here (there is no fallback to a
    weaker one), and `ServiceError` if the engine does not answer. After that no failure of a job or
    of an engine call stops it: see `ready`.
    """

    def __init__(self, config: Config, engine: Engine, backends: Backends) -> None:
        self.config = config
        self.engine = engine
        self.backends = backends
        self.host = WorkerHost(config, backends)
        self.places = config.queue.places
        self.on_start: Callable[[Execution], None] = lambda _: None
        """Called for each job that begins."""
        self.on_over: OnOver = lambda *_: None
        self.short_lived = False
        """Set before it starts if it will run a single job, so that nothing is kept for others."""
        self.pool: Pool | None = None
        self._name = secrets.token_hex(8)
        self._settings = ExecutionSettings(
            path=config.sandbox.path,
            blobs=engine.blobs,
            patience=Patience(config.sandbox.kill_grace_s, config.sandbox.linger_s),
            on_output_limit=config.streams.on_output_limit,
            artifacts=config.artifacts,
            cache=CompileCache(engine.blobs, config.compile_cache.max_bytes),
        )
        self._strict = config.sandbox.seccomp == "strict"
        self._policies: dict[str, PolicyDigest] = {}
        """The digests of policies, by backend."""
        sessions = config.sessions
        self.sessions = WorkerSessions(
            self._name, engine, sessions.max, sessions.max_file_bytes, self._call
        )
        self.sessions.stop_jobs = self._stop_jobs
        self._running: dict[asyncio.Task[None], Execution] = {}
        self._leases = Leases(
            engine, self._call, lambda: [e for e in self._running.values() if not e.over.is_set()]
        )
        self._unbegun: Sequence[Lease] = ()
        """Claimed jobs of which it is not known yet whether they may begin."""
        self._refusing: set[asyncio.Task[bool | None]] = set()
        self._hurried = asyncio.Event()
        self._resources = contextlib.AsyncExitStack()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Its permanent tasks, by name."""
        self._asking: asyncio.Task[None] | None = None
        self._failing: set[str] = set()
        """The calls of the engine whose last attempt has failed."""
        self._published: Capabilities | None = None
        self._changed = asyncio.Event()
        """Set when the published capabilities may be out of date."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.backends.on_tried = self.host.languages.on_change = self._changed.set
            self.pool = await stack.enter_async_context(
                self.host.open_pool(
                    self.places, 0 if self.short_lived else self.config.sessions.max
                )
            )
            self.pool.short_lived = self.short_lived
            if self.short_lived:
                self._settings.cache.most_bytes = 0
            self.pool.templates.on_resisting = self._changed.set
            await self.host.check(self.cgroup_level)
            await stack.enter_async_context(started(self.engine, self.pool.folder.path))
            # Before the jobs half starts, so that jobs can be submitted from then on.
            self._published = self._told(accepting=True)
            publish = self.engine.publish(self._name, self._published)
            await answer_at_start(self.engine, "publish", publish)
            self._resources = stack.pop_all()
        for name, work in (
            ("streamer-claim", self._claim_jobs()),
            ("streamer-leases", self._leases.keep(self.pool.lifeline)),
            ("streamer-sessions", self.sessions.keep(self.pool, self._accepts)),
            ("streamer-trials", self.backends.keep_trying()),
            ("streamer-publish", self._keep_published()),
        ):
            self._tasks[name] = asyncio.create_task(work, name=name)
            self._tasks[name].add_done_callback(self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        async with contextlib.AsyncExitStack() as afterwards:
            # From the last to the first, each even if the one before it was cancelled.
            afterwards.push_async_callback(self._resources.aclose)
            afterwards.push_async_callback(self._withdraw)
            afterwards.push_async_callback(self._end_tasks)
            afterwards.push_async_callback(self.sessions.close, END_S)
            await self.drain(0)

    async def _end_tasks(self) -> None:
        # Do not wait longer for processes that resist SIGKILL.
        left: set[asyncio.Task[Any]] = {*self._tasks.values(), *self._running, *self._refusing}
        if self._asking is not None:
            left.add(self._asking)
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=END_S)

    async def _withdraw(self) -> None:
        try:
            withdraw = partial(self.engine.publish, self._name, None)
            await within(WITHDRAW_S, repeated(withdraw, tries=CALL_TRIES))
        except Exception:
            log.exception("the engine could not be told that this worker is no more")

    @asynccontextmanager
    async def trial(self) -> AsyncIterator[Backends]:
        """Lend the backends to test them as jobs use them, without starting the worker."""
        async with self.host.open_pool(0) as pool:
            pool.short_lived = True
            yield self.backends

    async def try_all(self) -> None:
        """Test the backends that were not tested yet, within a time limit, and publish anew."""
        await self.backends.reasons()
        await self._publish()

    def ask_versions(self) -> None:
        """Begin to ask the tools of the languages for their versions, if that has not begun.

        Not at the start: most that start a service in a program of theirs never ask for them.
        """
        if self.pool is not None and self._asking is None:
            asking = self.host.languages.keep_asking(self.pool.lookout)
            self._asking = asyncio.create_task(asking, name="streamer-versions")

    @property
    def cgroup_level(self) -> str | None:
        """``cgroup-v1`` or ``cgroup-v2`` if jobs have control groups; known once started."""
        return None if self.pool is None else self.pool.cgroup_level

    @property
    def ahead(self) -> Ahead:
        """What it has started before its job."""
        return Ahead() if self.pool is None else self.pool.ahead

    @property
    def ready(self) -> bool:
        """Whether it is started, its tasks run, and the engine answers."""
        working = all(not task.done() for task in self._tasks.values())
        return bool(self._tasks) and working and not self._failing

    @property
    def resisting(self) -> int:
        """The number of ended jobs and templates with a process that resists SIGKILL."""
        templates = 0 if self.pool is None else self.pool.templates.resisting
        jobs = sum(execution.resists for execution in self._running.values())
        return templates + jobs + self.sessions.resisting

    async def drain(self, timeout_s: float) -> None:
        """Claim no more jobs, and give the running ones `timeout_s`.

        After that they are killed, which has a time limit too. When this returns, each of their
        logs has its terminal event. `hurry` ends the waiting time. Idempotent.
        """
        if claiming := self._tasks.get("streamer-claim"):
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)
        self.sessions.drain()
        if self.pool is not None:
            self.pool.held.stop()
        if not self.engine.alone:
            await self._hand_over()
        running = [e for e in self._running.values() if not e.over.is_set()]
        # As separate tasks, since an execution continues while a process resists SIGKILL.
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
            # Each has its own limit; this is in case one does not.
            await asyncio.wait(over, timeout=END_S + self.config.sandbox.kill_grace_s)
        for task in over:
            task.cancel()

    async def _hand_over(self) -> None:
        """Give back the jobs of which nothing has run yet, or end those that have not begun."""
        unbegun, self._unbegun = self._unbegun, ()
        running = [*self._running.values()]
        for lease in await given_back(running, unbegun, self._call, self.engine.heartbeat_s):
            self._refuse(lease, SHUT_DOWN)

    def hurry(self) -> None:
        """End the waiting time of a running `drain`."""
        self._hurried.set()

    async def _claim_jobs(self) -> None:
        while True:
            free = self.places - len(self._running)
            if free <= 0:
                await asyncio.wait(set(self._running), return_when=asyncio.FIRST_COMPLETED)
                continue
            if not await self._claim_some(free):
                await asyncio.sleep(CLAIM_RETRY_S)

    async def _claim_some(self, free: int) -> bool:
        """Claim jobs and start them; return whether the engine has answered.

        Not within the loop, whose variables would keep the last of them until the next come.
        """
        leases: Sequence[Lease] | None = await self._call(
            "claim", partial(self.engine.claim, self._name, free, self._accepts())
        )
        self._unbegun = leases or ()
        lost = await self._leases.lost_of(leases) if leases else ()
        self._unbegun = ()
        for lease in leases or ():
            if lease in lost:
                continue
            try:
                self._start(lease)
            except Exception:
                # No single job may end this loop.
                job = lease.job
                told = about(job.job_id, job.tenant)
                log.exception("job %s cannot be run here", job.job_id, extra=told)
                self._refuse(lease)
        return leases is not None

    def _accepts(self) -> Accepts | None:
        # If it is alone, it also takes jobs that it cannot run: nobody else would end them.
        return None if self.engine.alone else self.host.accepts

    def _stop_jobs(self, session_id: str) -> None:
        """Stop the job of a session that has ended."""
        for execution in self._running.values():
            if execution.lease.job.session_id == session_id:
                execution.stop("cancelled")

    def _refuse(self, lease: Lease, failure: Error = CANNOT_RUN) -> None:
        task = asyncio.create_task(finish(lease, [failure]))
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)

    def _start(self, lease: Lease) -> None:
        assert self.pool is not None
        name = lease.job.backend
        session = None
        if lease.job.session_id is not None:
            session = self.sessions.get(lease.job.session_id)
            if session is None:
                self._refuse(lease, Error("sandbox_error", "the session of the job has ended"))
                return
        policy = partial(self._policy(name), lease.job)
        execution = Execution(lease, self.pool, self._settings, policy, self._changed.set, session)
        execution.on_over = self.on_over
        self.on_start(execution)
        task = asyncio.create_task(execution.run(), name=f"streamer-job-{lease.job.job_id}")
        self._running[task] = execution

        def ended(task: asyncio.Task[None]) -> None:
            del self._running[task]
            if session is None and (execution.failed or execution.outcome != "shutting_down"):
                self.backends.job_ended(name, failed=execution.failed)
            if not task.cancelled() and task.exception() is not None:
                log.error(
                    *("job %s: unexpected failure", lease.job.job_id),
                    exc_info=task.exception(),
                    extra=about(lease.job.job_id, lease.job.tenant),
                )
            self._look_again()

        task.add_done_callback(ended)

    def _policy(self, backend: str) -> PolicyDigest:
        if backend not in self._policies:
            self._policies[backend] = policy_digest(
                self.backends[backend], self.cgroup_level, strict_filter=self._strict
            )
        return self._policies[backend]

    # -- what it publishes ----------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """Return what it can run now, and its state."""
        return self._told(accepting=self.ready)

    def _told(self, *, accepting: bool) -> Capabilities:
        return self.host.capabilities(
            self.cgroup_level, accepting=accepting, resisting=self.resisting, ahead=self.ahead
        )

    async def _publish(self) -> None:
        self._published = self.capabilities()
        await self._call("publish", partial(self.engine.publish, self._name, self._published))

    async def _keep_published(self) -> None:
        """Publish the capabilities when they change, and with every heartbeat."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.engine.heartbeat_s):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self._publish()
            except Exception:
                # If this ended, nobody would learn that anything else has.
                log.exception("this worker's capabilities could not be determined")

    def _look_again(self) -> None:
        """Publish the capabilities if they differ from those that were published."""
        told = self._published
        now = (self.ready, self.backends.trusted, self.resisting)
        if told is not None and now != (told.accepting, told.trusted, told.resisting):
            self._changed.set()

    async def _call(
        self, name: str, call: Callable[[], Awaitable[Any]], timeout_s: float = ENGINE_TIMEOUT_S
    ) -> Any:
        """Return the engine's answer, or None if it fails or takes too long, which is logged."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await repeated(call, tries=CALL_TRIES)
        except Exception as error:
            why = str(error) or "no answer in time"
            expected = isinstance(error, ConnectionError | TimeoutError)
            about = "a call of the engine failed: %s: %s; trying again"
            log.error(about, name, why, exc_info=not expected)
            self._failing.add(name)
            self._look_again()
            return None
        if name in self._failing:
            self._failing.remove(name)
            self._look_again()
        return answer

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("%s has ended", task.get_name(), exc_info=task.exception())
        self._look_again()

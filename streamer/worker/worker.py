"""Run jobs: claim them from the engine, give each a place, and stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from streamer.config.schema import Config
from streamer.engine.interface import Engine, Lease
from streamer.model.events import Error
from streamer.sandbox.enforcement import check_required
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.registry import Backends
from streamer.worker.execution import Execution, ExecutionSettings
from streamer.worker.finish import finish
from streamer.worker.policy import policy_digest
from streamer.worker.program import Patience

__all__ = ["Worker"]

log: Final = logging.getLogger(__name__)

CLAIM_RETRY_S: Final = 1.0
END_S: Final = 90.0
"""For all jobs to end once they are stopped; each has its own, shorter bounds."""


class Worker:
    """Runs the jobs of an engine. Use it as an asynchronous context manager.

    Entering it finds the sandbox and begins to claim: it raises `BackendUnavailable` when the
    configured sandbox does not work here, and falls back to no weaker one.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        backends: Backends,
    ) -> None:
        self.config = config
        self.engine = engine
        self.backends = backends
        self.places = config.queue.places
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
        self.pool: Pool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """What it does all the time, by name; see `ready`."""

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self.pool = await stack.enter_async_context(self._open_pool(self.places))
            await self.backends.find_default()
            await self.backends.reasons(self.config.sandbox.allow)
            self._check_required()
            await self.engine.start(self.pool.folder.path)
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
        """Lend the backends for trying them as jobs get them, without starting anything."""
        async with self._open_pool(0):
            yield self.backends

    @asynccontextmanager
    async def _open_pool(self, users: int) -> AsyncIterator[Pool]:
        """Make what sandboxes need, and let the backends be tried with it."""
        sandbox = self.config.sandbox
        with open_pool(
            self.backends,
            state_dir=self.config.server.state_dir,
            cgroup=sandbox.cgroup,
            uid_base=sandbox.uid_base,
            places=self.config.queue.places,
            users=users,
            strict_filter=self._strict,
        ) as pool:
            async with self.backends.tried_in(pool):
                yield pool

    @property
    def cgroup_level(self) -> str | None:
        """``cgroup-v1`` or ``cgroup-v2`` where jobs have control groups, once started."""
        return None if self.pool is None else self.pool.cgroup_level

    @property
    def ready(self) -> bool:
        """Whether it is started and at work."""
        return bool(self._tasks) and all(not task.done() for task in self._tasks.values())

    @property
    def resisting(self) -> int:
        """How many places are lost to ended jobs of which something resists its end."""
        return sum(execution.resists for execution in self._running.values())

    async def drain(self, timeout_s: float) -> None:
        """Claim no more jobs, and give the running ones `timeout_s`.

        After that they are killed, which has a bound too. Every log of theirs has its terminal
        event when this returns. `hurry` cuts the time short. Idempotent.
        """
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

    async def _claim_jobs(self) -> None:
        worker = secrets.token_hex(8)
        while True:
            free = self.places - len(self._running)
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
        assert self.pool is not None
        name = lease.job.backend
        backend = self.backends[name]
        policy = policy_digest(lease.job, backend, self.cgroup_level, strict_filter=self._strict)
        execution = Execution(lease, self.pool, self._settings, policy)
        task = asyncio.create_task(execution.run(), name=f"streamer-job-{lease.job.job_id}")
        self._running[task] = execution
        self.on_start(execution)

        def ended(task: asyncio.Task[None]) -> None:
            del self._running[task]
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
    """Say that a task which never ends has ended; `Worker.ready` tells it too."""
    if not task.cancelled():
        log.critical("%s has ended", task.get_name(), exc_info=task.exception())

"""Compose the two halves of the service: accept jobs, and run them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Self

from streamer.config.schema import Config
from streamer.engine.interface import Engine, Idempotency, Stats
from streamer.engine.measures import JobMeasures
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.jobs.resolve import Resolver
from streamer.model.job import JobSpec, ResolvedJob
from streamer.model.runtime import Runtime
from streamer.sandbox.registry import Backends
from streamer.worker.execution import Execution
from streamer.worker.tools import missing_path
from streamer.worker.worker import Worker

__all__ = ["JobService"]

log: Final = logging.getLogger(__name__)


class JobService:
    """The service behind one application. Use it as an asynchronous context manager."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        backends: Backends,
        runtimes: Mapping[str, Runtime],
        missing_runtimes: Mapping[str, str],
        measures: JobMeasures,
    ) -> None:
        self.config = config
        self.engine = engine
        self.backends = backends
        self.measures = measures
        self.jobs = Jobs(config, engine, runtimes, missing_runtimes, self._resolve)
        self.worker = Worker(config, engine, backends)
        self.runtimes = runtimes
        self.missing_runtimes = missing_runtimes
        self.concurrency = self.worker.places
        self.draining = self.jobs.draining

    async def __aenter__(self) -> Self:
        await self.worker.__aenter__()
        for runtime in self.config.runtimes.values():
            if reason := missing_path(runtime):
                log.warning("the language %s is not offered: %s", runtime.name, reason)
        if not self.offers_programs:
            log.warning(
                "no language works here: look at sandbox.path (%s) and at `streamer runtimes`",
                self.config.sandbox.path,
            )
        self.jobs.started = True
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.jobs.drain()
        await self.worker.__aexit__()

    def trial(self) -> AbstractAsyncContextManager[Backends]:
        """Lend the backends for trying them as jobs get them, without starting the service."""
        return self.worker.trial()

    @property
    def on_start(self) -> Callable[[Execution], None]:
        """Hears of each job that begins."""
        return self.worker.on_start

    @on_start.setter
    def on_start(self, hear: Callable[[Execution], None]) -> None:
        self.worker.on_start = hear

    @property
    def offers_programs(self) -> bool:
        """Whether this host has a language at all, or callers may send commands."""
        return self.jobs.offers_programs

    @property
    def cgroup_level(self) -> str | None:
        """``cgroup-v1`` or ``cgroup-v2`` where jobs have control groups, once started."""
        return self.worker.cgroup_level

    @property
    def ready(self) -> bool:
        """Whether jobs are taken: started, at work, and not draining."""
        return self.worker.ready and not self.draining.is_set()

    @property
    def resisting(self) -> int:
        """How many places are lost to ended jobs of which something resists its end."""
        return self.worker.resisting

    async def submit(
        self, spec: JobSpec, *, tenant: str = "", idempotency: Idempotency | None = None
    ) -> Job:
        """Accept a job and return at once; see `Jobs.submit`."""
        return await self.jobs.submit(spec, tenant=tenant, idempotency=idempotency)

    def _resolve(self, resolver: Resolver, spec: JobSpec, job_id: str) -> ResolvedJob:
        return resolver.resolve(
            spec,
            job_id,
            default_backend=self.backends.default,
            unavailable=self.backends.known({self.backends.default, *self.config.sandbox.allow}),
            filtering=self.backends.filtering,
        )

    def job(self, job_id: str) -> Job:
        """Return a handle on a job by its id; the handle's methods say if there is none."""
        return self.jobs.job(job_id)

    async def drain(self, timeout_s: float) -> None:
        """Take no more jobs, end the queued ones, and give the running ones `timeout_s`.

        After that the running ones are killed, which has a bound too. Every log has its
        terminal event when this returns. `hurry` cuts the time short. Idempotent.
        """
        await self.jobs.drain()
        await self.worker.drain(timeout_s)

    def hurry(self) -> None:
        """Let a `drain` that is under way wait no longer."""
        self.worker.hurry()

    async def estimated_wait_s(self) -> float:
        """Return how long a job submitted now would wait, judging by the last ones, in seconds."""
        return await self.jobs.estimated_wait_s()

    async def stats(self) -> Stats:
        """Return how busy the engine is."""
        return await self.jobs.stats()

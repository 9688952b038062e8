"""Accept jobs and find them again: the half of the service that runs nothing."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Mapping

from streamer.config.schema import Config
from streamer.engine.interface import Engine, Idempotency, Stats
from streamer.errors import Draining
from streamer.jobs.job import Job
from streamer.jobs.resolve import Resolver
from streamer.model.job import JobSpec, ResolvedJob
from streamer.model.runtime import Runtime
from streamer.model.typed import typed_spec

__all__ = ["Jobs"]


class Jobs:
    """What callers may do with the jobs of an engine."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        runtimes: Mapping[str, Runtime],
        missing_runtimes: Mapping[str, str],
        resolve: Callable[[Resolver, JobSpec, str], ResolvedJob],
    ) -> None:
        self.config = config
        self.engine = engine
        self.runtimes = runtimes
        self.missing_runtimes = missing_runtimes
        self.draining = asyncio.Event()
        self.started = False
        self._resolver = Resolver(config, runtimes, missing_runtimes)
        self._resolve = resolve

    @property
    def offers_programs(self) -> bool:
        """Whether there is a language at all, or callers may send commands."""
        names = {runtime.name for runtime in self.runtimes.values()}
        return self.config.sandbox.allow_command or bool(names - self.missing_runtimes.keys())

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
        if not self.started:
            raise Draining(
                "the service has not started yet: submit once the application has",
                retry_after_s=5.0,
            )
        if idempotency is None and self.draining.is_set():  # with a key the engine knows
            raise Draining("the service is shutting down and takes no new jobs", retry_after_s=5.0)
        job = self._resolve(self._resolver, spec, _new_job_id())
        submitted = await self.engine.submit(job, tenant=tenant, idempotency=idempotency)
        return Job(self.engine, submitted.job_id, replayed=not submitted.created)

    def job(self, job_id: str) -> Job:
        """Return a handle on a job by its id; the handle's methods say if there is none."""
        return Job(self.engine, job_id)

    async def drain(self) -> None:
        """Take no more jobs, and end the queued ones. Idempotent."""
        self.draining.set()
        await self.engine.drain()

    async def estimated_wait_s(self) -> float:
        """Return how long a job submitted now would wait, judging by the last ones, in seconds."""
        return round((await self.engine.stats()).estimated_wait_s, 2)

    async def stats(self) -> Stats:
        """Return how busy the engine is."""
        return await self.engine.stats()


def _new_job_id() -> str:
    """Return 128 random bits as 26 letters and digits: who has it may read the job."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

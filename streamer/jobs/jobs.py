"""Accept jobs and find them again: the half of the service that runs nothing.

It learns from the engine what workers have published that they can run; it never looks at its own
host.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Sequence

from streamer.config.schema import Config
from streamer.engine.interface import Broker, Idempotency, JobPlace, JobState, JobView, Stats
from streamer.errors import Draining, NotFound, StreamerError, unknown_project
from streamer.jobs.job import Job
from streamer.jobs.project import Project
from streamer.jobs.projects import Projects
from streamer.jobs.resolve import Resolver
from streamer.model.capabilities import Capabilities, merged
from streamer.model.job import JobSpec
from streamer.model.runtime import by_name
from streamer.model.typed import typed_spec

__all__ = ["Jobs"]


class Jobs:
    """Submit jobs and find them again; see `streamer.get_service`."""

    def __init__(self, config: Config, engine: Broker) -> None:
        """Raises `ConfigError` if two languages have the same name."""
        self.config = config
        self.runtimes = by_name(config.runtimes)
        """The configured languages by name and alias."""
        self.draining = asyncio.Event()
        self.projects = Projects(config.projects, engine.blobs)
        base = config.server.public_url.rstrip("/")
        self.files_url: Callable[[str], str] = lambda job_id: f"{base}/api/jobs/{job_id}/files/"
        """Where the files of a job can be downloaded, by its id: the web knows its own prefix."""
        self._engine = engine
        self._resolver = Resolver(config, self.runtimes)

    def environments_of(self, language: str) -> list[str]:
        """Return the names of the environments that are configured for a language."""
        return sorted(
            name
            for name, each in self.config.environments.items()
            if any(self.runtimes[one].name == language for one in each.languages)
        )

    @property
    def outlive_process(self) -> bool:
        """Whether jobs may continue in other processes when this one stops."""
        return not self._engine.alone

    async def submit(
        self,
        spec: JobSpec,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Job:
        """Accept a job and return at once.

        `tenant` owns the job: only requests of that tenant may read it. Raises `InvalidJob`,
        `Forbidden` or `Conflict` if the job is at fault, `Busy` if the queue is full, `Draining`
        if the service is shutting down or has not started.
        """
        if not isinstance(tenant, str):
            raise TypeError(f"tenant must be a str, not a {type(tenant).__name__}")
        return await self.accept(typed_spec(spec), tenant=tenant, idempotency=idempotency)

    async def accept(
        self, spec: JobSpec, *, tenant: str, idempotency: Idempotency | None = None
    ) -> Job:
        """Do what `submit` does, for a job whose types are known to be right."""
        if self.draining.is_set():
            stops = "the service is shutting down and accepts no new jobs"
            return await self._repeated(idempotency, tenant, Draining(stops, retry_after_s=5.0))
        workers = await self.capabilities()
        if not workers.places:
            raise Draining(
                "the service has not started yet: submit once the application has",
                retry_after_s=5.0,
            )
        job_id = _new_job_id()
        files_url = self.files_url(job_id) if spec.artifacts else ""
        try:
            project = await self._project(spec, tenant)
            job = self._resolver.resolve(spec, job_id, workers, tenant, project, files_url)
        except StreamerError as error:
            # What the first job had may be gone: its project, a language, a sandbox.
            return await self._repeated(idempotency, tenant, error)
        submitted = await self._engine.submit(job, tenant=tenant, idempotency=idempotency)
        return Job(self._engine, submitted.job_id, replayed=not submitted.created)

    async def _repeated(
        self, idempotency: Idempotency | None, tenant: str, error: StreamerError
    ) -> Job:
        """Return the first job with a key. Without one `error` is raised."""
        # Only the engine knows whether a key was used before.
        first = None
        if idempotency is not None:
            first = await self._engine.repeated(idempotency, tenant=tenant)
        if first is None:
            raise error
        return Job(self._engine, first, replayed=True)

    async def _project(self, spec: JobSpec, tenant: str) -> Project | None:
        if spec.project_id is None:
            return None
        try:
            return await self.projects.find(spec.project_id, tenant=tenant)
        except NotFound:
            raise unknown_project(spec.project_id) from None

    def job(self, job_id: str) -> Job:
        """Return a handle for an id, not looked up yet: its methods raise `UnknownJob`."""
        return Job(self._engine, job_id)

    async def list(
        self,
        *,
        tenant: str = "",
        state: JobState | None = None,
        limit: int = 50,
        before: JobPlace | None = None,
    ) -> Sequence[JobView]:
        return await self._engine.jobs(tenant=tenant, state=state, limit=limit, before=before)

    async def drain(self) -> None:
        """Accept no more jobs, and end the queued ones. Idempotent."""
        self.draining.set()
        await self._engine.drain()

    async def capabilities(self) -> Capabilities:
        """Return what all workers together can run (`streamer.model.capabilities.merged`)."""
        return merged(await self._engine.capabilities())

    async def reachable(self) -> bool:
        """Tell whether the engine can be reached and accepts jobs."""
        return await self._engine.ready()

    async def estimated_wait_s(self) -> float:
        """Return how long a job submitted now would wait, in seconds, by recent jobs."""
        return round((await self._engine.stats()).estimated_wait_s, 2)

    async def stats(self) -> Stats:
        return await self._engine.stats()


def _new_job_id() -> str:
    """Return 128 random bits as 26 letters and digits: the id gives access to the job."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

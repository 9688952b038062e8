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
from streamer.engine.interface import (
    Broker,
    Idempotency,
    JobPlace,
    JobState,
    JobView,
    OwnQueue,
    Stats,
)
from streamer.engine.webhooks import Webhooks
from streamer.errors import Draining, NotFound, StreamerError, unknown_project
from streamer.jobs.job import Job
from streamer.jobs.languages import Language, listed
from streamer.jobs.opensession import SessionResolver
from streamer.jobs.project import Project
from streamer.jobs.projects import Projects
from streamer.jobs.sessions import Sessions
from streamer.jobs.tracing import Tracing
from streamer.jobs.usage import UsageFeeds
from streamer.jobs.workers import Workers
from streamer.model.capabilities import Capabilities
from streamer.model.job import JobSpec
from streamer.model.runtime import by_name
from streamer.model.session import ResolvedSession
from streamer.model.tracecontext import parsed_traceparent
from streamer.model.typed import typed_spec

__all__ = ["Jobs"]


class Jobs:
    """Submit jobs and find them again; see `streamer.get_service`."""

    def __init__(self, config: Config, engine: Broker, tracing: Tracing | None = None) -> None:
        """Raises `ConfigError` if two languages have the same name."""
        self.config = config
        self._tracing = tracing
        self.runtimes = by_name(config.runtimes)
        """The configured languages by name and alias."""
        self.draining = asyncio.Event()
        self.projects = Projects(config.projects, engine.blobs)
        base = config.server.public_url.rstrip("/")
        self.files_url: Callable[[str], str] = lambda job_id: f"{base}/api/jobs/{job_id}/files/"
        """Where the files of a job can be downloaded, by its id: the web knows its own prefix."""
        self._engine = engine
        self.usage = UsageFeeds(engine)
        self.workers = Workers(engine, self.runtimes)
        self._resolver = SessionResolver(config, self.runtimes)
        self.sessions = Sessions(config, engine, self._resolver, self.workers, self._project)

    def environments_of(self, language: str) -> list[str]:
        """Return the names of the environments that are configured for a language."""
        return sorted(
            name
            for name, each in self.config.environments.items()
            if any(self.runtimes[one].name == language for one in each.languages)
        )

    @property
    def webhooks(self) -> Webhooks:
        """The webhooks of jobs that are over."""
        return self._engine.webhooks

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
        traceparent: str = "",
    ) -> Job:
        """Accept a job and return at once.

        `tenant` owns the job: only requests of that tenant may read it. `traceparent` (W3C Trace
        Context) names the trace that it belongs to, and is left out if it is invalid. Raises
        `InvalidJob`, `Forbidden` or `Conflict` if the job is at fault, `Busy` if the queue is full,
        `Draining` if the service is shutting down or has not started, `NoWorker` if none could run
        it.
        """
        if not isinstance(tenant, str):
            raise TypeError(f"tenant must be a str, not a {type(tenant).__name__}")
        return await self.accept(
            typed_spec(spec),
            tenant=tenant,
            idempotency=idempotency,
            traceparent=parsed_traceparent(traceparent),
        )

    async def accept(
        self,
        spec: JobSpec,
        *,
        tenant: str,
        idempotency: Idempotency | None = None,
        traceparent: str = "",
    ) -> Job:
        """Do what `submit` does, for a job whose types are known to be right."""
        if self._tracing is None:
            return await self._accept(spec, tenant, idempotency, traceparent)
        with self._tracing.accepting(traceparent, tenant) as acceptance:
            job = await self._accept(spec, tenant, idempotency, acceptance.traceparent)
            acceptance.accepted(job.id, replayed=job.replayed)
            return job

    async def _accept(
        self, spec: JobSpec, tenant: str, idempotency: Idempotency | None, traceparent: str
    ) -> Job:
        if self.draining.is_set():
            if (first := await self._repeated(idempotency, tenant)) is not None:
                return first
            stops = "the service is shutting down and accepts no new jobs"
            raise Draining(stops, retry_after_s=5.0)
        published = await self.workers.published()
        job_id = _new_job_id()
        files_url = self.files_url(job_id) if spec.artifacts else ""
        try:
            workers = self.workers.for_job(spec, published)
            project = await self._project(spec.project_id, tenant, self._declaring(spec))
            session = await self._session(spec.session_id, tenant)
            job = self._resolver.resolve(
                spec,
                job_id,
                workers,
                tenant,
                project,
                files_url,
                session=session,
                traceparent=traceparent,
            )
            self.workers.check_job(job, published)
        except StreamerError:
            # What the first job had may be gone: its project, its session, a language, a sandbox.
            if (first := await self._repeated(idempotency, tenant)) is not None:
                return first
            raise
        submitted = await self._engine.submit(job, tenant=tenant, idempotency=idempotency)
        return Job(self._engine, submitted.job_id, self.usage, replayed=not submitted.created)

    async def _repeated(self, idempotency: Idempotency | None, tenant: str) -> Job | None:
        """Return the first job with a key, if there is one: only the engine knows.

        It is not given the error to raise otherwise: an error in a variable of a function that it
        has passed through is garbage in a cycle, with the whole job, which is collected much later.
        """
        if idempotency is None:
            return None
        first = await self._engine.repeated(idempotency, tenant=tenant)
        return None if first is None else Job(self._engine, first, self.usage, replayed=True)

    async def _session(self, session_id: str | None, tenant: str) -> ResolvedSession | None:
        if session_id is None:
            return None
        return (await self.sessions.named(session_id, tenant)).session

    def _declaring(self, spec: JobSpec) -> str | None:
        """Return the file of the project that says how the class is named, if there is one."""
        runtime = self.runtimes.get(spec.language or "")
        if runtime is None or not runtime.names_class:
            return None
        return runtime.entry if spec.entry is None else spec.entry

    async def _project(
        self, project_id: str | None, tenant: str, begin_of: str | None = None
    ) -> Project | None:
        if project_id is None:
            return None
        try:
            return await self.projects.find(project_id, tenant=tenant, begin_of=begin_of)
        except NotFound:
            raise unknown_project(project_id) from None

    def job(self, job_id: str) -> Job:
        """Return a handle for an id, not looked up yet: its methods raise `UnknownJob`."""
        return Job(self._engine, job_id, self.usage)

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
        return await self.workers.together()

    async def languages(self) -> Sequence[Language]:
        """Return the configured languages, and which of them can be run now."""
        return listed(self.runtimes, await self.capabilities())

    async def reachable(self) -> bool:
        """Tell whether the engine can be reached and accepts jobs."""
        return await self._engine.ready()

    async def estimated_wait_s(self) -> float:
        """Return how long a job submitted now would wait, in seconds, by recent jobs."""
        return round((await self._engine.stats()).estimated_wait_s, 2)

    async def grant_secret(self) -> bytes:
        """Return what signs grants, the same in all processes of the service."""
        given = self.config.auth.grant_secret
        return given.encode("utf-8", "surrogatepass") or await self._engine.secret("grants")

    async def own_queue(self, *, tenant: str = "") -> OwnQueue:
        """Return how many jobs of a tenant run and wait, and how long the next ones wait."""
        return await self._engine.own_queue(tenant)

    async def stats(self) -> Stats:
        return await self._engine.stats()


def _new_job_id() -> str:
    """Return 128 random bits as 26 letters and digits: the id gives access to the job."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

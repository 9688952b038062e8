"""Answer the HTTP interface: parse, call the service, reply. Decides nothing else."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from streamer.config.schema import Config
from streamer.engine.interface import JobView
from streamer.errors import Busy, Conflict, InvalidJob, UnknownJob, quoted
from streamer.jobs.job import Job
from streamer.jobs.service import JobService
from streamer.jobs.transcript import Transcripts
from streamer.model.names import camel
from streamer.model.runtime import Runtime, told_missing
from streamer.sandbox.enforcement import enforcement
from streamer.sandbox.registry import told
from streamer.sse.sessionmap import SessionMap
from streamer.web import parameters, wire
from streamer.web.bodies import Bodies
from streamer.web.callers.access import METRICS_ROUTE, Access, Action
from streamer.web.metrics import exposition
from streamer.web.parameters import takes
from streamer.web.streams import StreamHandlers

__all__ = ["OPEN_ROUTES", "Handlers"]

MAX_LIST: Final = 200
OPEN_ROUTES: Final = ("streamer-healthz", "streamer-readyz")
"""What everybody may ask, known or not."""


@dataclass(frozen=True)
class Handlers:
    """The handlers of one application and what they need."""

    service: JobService
    sessions: SessionMap
    access: Access
    bodies: Bodies
    transcripts: Transcripts

    @property
    def streams(self) -> StreamHandlers:
        """The handlers that follow jobs."""
        return StreamHandlers(self.service, self.sessions, self.access)

    @property
    def config(self) -> Config:
        """The application's configuration."""
        return self.service.config

    def routes(self) -> list[web.RouteDef]:
        """Return the one table of routes."""
        job = r"{job_id:[0-9a-z]{1,64}}"
        return [
            web.post("/api/execute", takes(self.execute)),
            *self.streams.routes(job),
            web.get("/api/jobs", takes(self.list_jobs, "status", "limit", "cursor")),
            web.get(f"/api/jobs/{job}", takes(self.show_job), name="streamer-job"),
            web.delete(f"/api/jobs/{job}", takes(self.delete_job, "purge")),
            web.post(
                f"/api/jobs/{job}/stdin", takes(self.write_stdin, "close"), name="streamer-stdin"
            ),
            web.post(f"/api/jobs/{job}/signal", takes(self.send_signal), name="streamer-signal"),
            web.get("/api/runtimes", takes(self.list_runtimes)),
            web.get("/api/sandboxes", takes(self.list_sandboxes)),
            web.get("/api/queue", takes(self.show_queue)),
            web.get("/healthz", self.health, name="streamer-healthz"),
            web.get("/readyz", self.readiness, name="streamer-readyz"),
            web.get("/metrics", self.metrics, name=METRICS_ROUTE),
        ]

    # -- jobs ---------------------------------------------------------------------------

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Accept a job; answer at once, or with its stream, or after a bounded wait."""
        tenant = self.access.require(request, "submit")
        wait_s = parameters.prefer_wait_s(request)
        streaming = "text/event-stream" in request.headers.get("Accept", "")
        if streaming:
            self.streams.check_room(tenant)  # before there is a job that the refusal would not name
        async with self.bodies.read(request, tenant) as body:
            idempotency = parameters.idempotency(request, body)
            spec = wire.parse_job(body)
            body.clear()
            job = await self.service.submit(spec, tenant=tenant, idempotency=idempotency)
        if streaming:
            try:
                # Of a new job no client can have seen anything.
                asked = self.streams.asked(request) if job.replayed else 0
                return await self.streams.follow(request, job, tenant, asked)
            except Busy:
                pass  # somebody else took the place: the job runs, and this is where
        if wait_s is not None and not streaming and await _ends_within(job, wait_s):
            headers = {**self._job_headers(request, job), "Preference-Applied": f"wait={wait_s:g}"}
            return _json(await self._document(request, job), headers=headers)
        accepted = {
            "jobId": job.id,
            "status": (await job.view()).state if job.replayed else "queued",
            "links": self._links(request, job.id),
        }
        return _json(accepted, status=202, headers=self._job_headers(request, job))

    async def show_job(self, request: web.Request) -> web.Response:
        """Show one job."""
        job, _ = await self._job(request, "read")
        return _json(await self._document(request, job))

    async def list_jobs(self, request: web.Request) -> web.Response:
        """List the caller's jobs, newest first."""
        tenant = self.access.require(request, "list")
        limit = parameters.number(request, "limit", 50, 1, MAX_LIST)
        views = await self.service.engine.jobs(
            tenant=tenant,
            state=parameters.state(request),
            limit=limit,
            before=parameters.cursor(request),
        )
        jobs = [
            wire.job_document(view, {}, self._links(request, view.job.job_id)) for view in views
        ]
        cursor = None
        if len(views) == limit:
            cursor = parameters.cursor_text((views[-1].created_at, views[-1].job.job_id))
        return _json({"jobs": jobs, "nextCursor": cursor})

    async def delete_job(self, request: web.Request) -> web.Response:
        """Cancel a job, or remove the record of a finished one."""
        job, _ = await self._job(request, "cancel")
        if parameters.flag(request, "purge"):
            if not await self.service.engine.purge(job.id):
                raise Conflict("the job is not over: cancel it first")
            return web.Response(status=204)
        if await job.cancel() == "done":
            raise Conflict("the job is over; to remove its record add ?purge=1")
        return _json({"jobId": job.id, "status": (await job.view()).state}, status=202)

    async def write_stdin(self, request: web.Request) -> web.Response:
        """Pass bytes to the program's standard input."""
        job, view = await self._job(request, "write")
        if not view.job.interactive:
            raise Conflict("the job takes no input: it was not submitted with interactive: true")
        closing = parameters.flag(request, "close")
        async with self.bodies.read(request, view.tenant) as body:
            size = len(body)
            outcome = await job.write(bytes(body)) if body else "accepted"
        if closing and outcome == "accepted":
            outcome = await job.end_input()
        if outcome == "closed":
            raise Conflict("the program's input is closed")
        return _json({"jobId": job.id, "bytes": size, "closed": closing}, status=202)

    async def send_signal(self, request: web.Request) -> web.Response:
        """Send a signal to the program."""
        job, view = await self._job(request, "signal")
        async with self.bodies.read(request, view.tenant) as body:
            name = wire.parse_signal(body)
        try:
            number = signal.Signals[name]
        except KeyError:
            raise InvalidJob(f"there is no signal {quoted(name)}", path="$.signal") from None
        if await job.signal(number) == "closed":
            raise Conflict("the job is over")
        return _json({"jobId": job.id, "signal": name}, status=202)

    # -- the service --------------------------------------------------------------------

    async def list_runtimes(self, request: web.Request) -> web.Response:
        """List the languages and whether this host has them."""
        self.access.require(request, "list")
        known = {runtime.name: runtime for runtime in self.service.runtimes.values()}
        return _json({"runtimes": [self._runtime(known[name]) for name in sorted(known)]})

    async def list_sandboxes(self, request: web.Request) -> web.Response:
        """List the backends and whether they work here."""
        self.access.require(request, "list")
        backends = self.service.backends
        reasons = await backends.reasons()
        default, allow = backends.default, self.config.sandbox.allow
        listed = [
            {
                "name": name,
                "available": not reasons[name],
                "reason": told(reasons[name]),
                "isolation": backend.isolation.name.lower(),
                "default": name == default,
                "selectable": name == default or name in allow,
                "enforces": {
                    camel(limit): level
                    for limit, level in enforcement(backend, self.service.cgroup_level).items()
                },
            }
            for name, backend in sorted(backends.items())
        ]
        return _json({"sandboxes": listed, "default": default})

    async def show_queue(self, request: web.Request) -> web.Response:
        """Show how long a job would wait."""
        self.access.require(request, "list")
        stats = await self.service.stats()
        document = {
            "running": stats.running,
            "waiting": stats.waiting,
            "capacity": self.service.concurrency,
            "maxWaiting": self.config.queue.max_waiting,
            "estimatedWaitS": await self.service.estimated_wait_s(),
        }
        return _json(document)

    async def health(self, _: web.Request) -> web.Response:
        """Say that the process answers, and how many streams it serves."""
        return _json({"status": "ok", "streams": len(self.sessions)})

    async def readiness(self, _: web.Request) -> web.Response:
        """Say whether jobs are taken."""
        checks = {
            "accepting": self.service.ready,
            "sandbox": self.service.backends.trusted,
            "takedown": not self.service.resisting,
            "engine": await self.service.engine.ready(),
            "languages": self.service.offers_programs,
        }
        ready = all(checks.values())
        return _json({"ready": ready, "checks": checks}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Expose the counters as Prometheus text."""
        self.access.require(request, "metrics")
        if not self.config.metrics.enabled:
            raise UnknownJob("metrics are off (metrics.enabled)")
        text = exposition(await self.service.stats(), self.service, self.sessions, self.bodies.held)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    # -- shared -------------------------------------------------------------------------

    async def _job(self, request: web.Request, action: Action) -> tuple[Job, JobView]:
        job = self.service.job(request.match_info["job_id"])
        return job, await self.access.job(request, action, job)

    async def _document(self, request: web.Request, job: Job) -> object:
        # In this order: of a job that is over the text is whole.
        view = await job.view()
        text = await self.transcripts.text(job.id, job.follow)
        return wire.job_document(view, text, self._links(request, job.id))

    def _links(self, request: web.Request, job_id: str) -> dict[str, str]:
        # From the router, so that they hold under any prefix of the host application; what a
        # proxy has cut off before that, only the operator knows.
        router = request.app.router
        base = self.config.server.public_url.rstrip("/")
        links = {
            name: base + str(router[f"streamer-{name}"].url_for(job_id=job_id))
            for name in ("job", "stream", "stdin", "signal", "cast")
        }
        output = router["streamer-output"].url_for(job_id=job_id, stream="stdout")
        return {**links, "cancel": links["job"], "output": base + str(output)}

    def _job_headers(self, request: web.Request, job: Job) -> dict[str, str]:
        headers = {"Location": self._links(request, job.id)["job"], "X-Job-Id": job.id}
        return {**headers, "Idempotency-Replayed": "true"} if job.replayed else headers

    def _runtime(self, runtime: Runtime) -> dict[str, object]:
        reason = self.service.missing_runtimes.get(runtime.name)
        return {
            "name": runtime.name,
            "aliases": list(runtime.aliases),
            "entry": runtime.entry,
            "compiled": bool(runtime.compile),
            "available": reason is None,
            "reason": None if reason is None else told_missing(reason),
        }


def _json(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=wire.dump(document), status=status, headers=headers, content_type="application/json"
    )


async def _ends_within(job: Job, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await job.result()
    except TimeoutError:
        return False
    return True

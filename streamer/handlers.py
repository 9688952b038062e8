"""Answer the HTTP interface: parse, call the service, reply. Decides nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import re
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from streamer import wire
from streamer.access import Access, Action
from streamer.config import Config
from streamer.enforcement import enforcement
from streamer.engine import Idempotency, JobState, JobView
from streamer.errors import Conflict, InvalidJob, TooLarge, UnknownJob
from streamer.metrics import exposition
from streamer.resolve import camel
from streamer.runtimes import Runtime
from streamer.service import Job, JobService
from streamer.sse.sessionmap import SessionMap
from streamer.streams import StreamHandlers
from streamer.transcript import output_text

__all__ = ["OPEN_ROUTES", "Handlers"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_WAIT_S: Final = 300.0
MAX_KEY_CHARS: Final = 255
MAX_LIST: Final = 200
OPEN_ROUTES: Final = ("streamer-healthz", "streamer-readyz")
"""What everybody may ask, known or not."""

STATES: Final = ("queued", "preparing", "compiling", "running", "complete", "error")
PREFER_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?", re.IGNORECASE)


@dataclass(frozen=True)
class Handlers:
    """The handlers of one application and what they need."""

    service: JobService
    sessions: SessionMap
    access: Access

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
            web.post("/api/execute", self.execute),
            *self.streams.routes(job),
            web.get("/api/jobs", self.list_jobs),
            web.get(f"/api/jobs/{job}", self.show_job, name="streamer-job"),
            web.delete(f"/api/jobs/{job}", self.delete_job),
            web.post(f"/api/jobs/{job}/stdin", self.write_stdin, name="streamer-stdin"),
            web.post(f"/api/jobs/{job}/signal", self.send_signal),
            web.get("/api/runtimes", self.list_runtimes),
            web.get("/api/sandboxes", self.list_sandboxes),
            web.get("/api/queue", self.show_queue),
            web.get("/healthz", self.health, name="streamer-healthz"),
            web.get("/readyz", self.readiness, name="streamer-readyz"),
            web.get("/metrics", self.metrics),
        ]

    # -- jobs ---------------------------------------------------------------------------

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Accept a job; answer at once, or with its stream, or after a bounded wait."""
        tenant = self.access.require(request, "submit")
        body = await self._body(request)
        job = await self.service.submit(
            wire.parse_job(body), tenant=tenant, idempotency=_idempotency(request, body)
        )
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self.streams.follow(request, job)
        waited = PREFER_WAIT.search(request.headers.get("Prefer", ""))
        if waited:
            seconds = min(float(waited.group(1)), MAX_WAIT_S)
            if await _ends_within(job, seconds):
                return _json(
                    await self._document(request, job), headers=self._job_headers(request, job)
                )
        links = self._links(request, job.id)
        accepted = {"jobId": job.id, "status": "queued", "links": links}
        return _json(accepted, status=202, headers=self._job_headers(request, job))

    async def show_job(self, request: web.Request) -> web.Response:
        """Show one job."""
        job, _ = await self._job(request, "read")
        return _json(await self._document(request, job))

    async def list_jobs(self, request: web.Request) -> web.Response:
        """List the caller's jobs, newest first."""
        tenant = self.access.require(request, "list")
        limit = _integer(request.query.get("limit", "50"), "limit", 1, MAX_LIST)
        views = await self.service.engine.jobs(
            tenant=tenant,
            state=_state(request.query.get("status")),
            limit=limit,
            before=request.query.get("cursor"),
        )
        jobs = [
            wire.job_document(view, {}, self._links(request, view.job.job_id)) for view in views
        ]
        cursor = views[-1].job.job_id if len(views) == limit else None
        return _json({"jobs": jobs, "nextCursor": cursor})

    async def delete_job(self, request: web.Request) -> web.Response:
        """Cancel a job, or remove the record of a finished one."""
        job, _ = await self._job(request, "cancel")
        if request.query.get("purge") in ("1", "true"):
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
        body = await self._body(request)
        closing = request.query.get("close") in ("1", "true")
        outcome = await job.write(body) if body else "accepted"
        if closing and outcome == "accepted":
            outcome = await job.end_input()
        if outcome == "closed":
            raise Conflict("the program's input is closed")
        return _json({"jobId": job.id, "bytes": len(body), "closed": closing}, status=202)

    async def send_signal(self, request: web.Request) -> web.Response:
        """Send a signal to the program."""
        job, _ = await self._job(request, "signal")
        name = wire.parse_signal(await self._body(request))
        try:
            number = signal.Signals[name]
        except KeyError:
            raise InvalidJob(f"there is no signal {name!r}", path="$.signal") from None
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
                "reason": reasons[name] or None,
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
            "sandbox": bool(self.service.backends.default),
            "engine": await self.service.engine.ready(),
        }
        ready = all(checks.values())
        return _json({"ready": ready, "checks": checks}, status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Expose the counters as Prometheus text."""
        self.access.require(request, "metrics")
        if not self.config.metrics.enabled:
            raise UnknownJob("metrics are off (metrics.enabled)")
        text = exposition(await self.service.stats(), self.service, self.sessions)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    # -- shared -------------------------------------------------------------------------

    async def _job(self, request: web.Request, action: Action) -> tuple[Job, JobView]:
        job = self.service.job(request.match_info["job_id"])
        return job, await self.access.job(request, action, job)

    async def _document(self, request: web.Request, job: Job) -> object:
        text = await output_text(await job.log(), self.config.streams.result_text_bytes)
        return wire.job_document(await job.view(), text, self._links(request, job.id))

    def _links(self, request: web.Request, job_id: str) -> dict[str, str]:
        # From the router, so that they hold under any prefix of the host application.
        router = request.app.router
        return {
            "job": str(router["streamer-job"].url_for(job_id=job_id)),
            "stream": str(router["streamer-stream"].url_for(job_id=job_id)),
            "stdin": str(router["streamer-stdin"].url_for(job_id=job_id)),
        }

    def _job_headers(self, request: web.Request, job: Job) -> dict[str, str]:
        return {"Location": self._links(request, job.id)["job"], "X-Job-Id": job.id}

    def _runtime(self, runtime: Runtime) -> dict[str, object]:
        reason = self.service.missing_runtimes.get(runtime.name)
        return {
            "name": runtime.name,
            "aliases": list(runtime.aliases),
            "entry": runtime.entry,
            "compiled": bool(runtime.compile),
            "available": reason is None,
            "reason": reason,
        }

    async def _body(self, request: web.Request) -> bytes:
        """Read a body under our own limits: the host application's may be any."""
        limit = self.config.server.max_body_bytes
        if (request.content_length or 0) > limit:
            raise TooLarge(f"the body may have {limit} bytes (server.max_body_bytes)")
        body = bytearray()
        try:
            async with asyncio.timeout(self.config.server.body_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise TooLarge(f"the body may have {limit} bytes (server.max_body_bytes)")
        except TimeoutError:
            raise InvalidJob(
                f"the body did not arrive within {self.config.server.body_timeout_s} s"
            ) from None
        return bytes(body)


def _json(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=wire.dump(document), status=status, headers=headers, content_type="application/json"
    )


def _idempotency(request: web.Request, body: bytes) -> Idempotency | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS:
        raise InvalidJob(f"an Idempotency-Key has 1 to {MAX_KEY_CHARS} characters")
    return Idempotency(key, hashlib.sha256(body).digest())


async def _ends_within(job: Job, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await job.result()
    except TimeoutError:
        return False
    return True


def _integer(text: str, name: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= most):
        raise InvalidJob(f"{name} is a whole number from {least} to {most}", path=f"?{name}")
    return int(text)


def _state(text: str | None) -> JobState | None:
    if text is None:
        return None
    for state in STATES:
        if state == text:
            return state
    raise InvalidJob(f"status is one of {', '.join(STATES)}", path="?status")

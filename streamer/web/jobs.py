"""The handlers that submit, show, list, cancel and signal jobs, and send them input."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from streamer.engine.interface import JobState
from streamer.errors import Busy, Conflict, InvalidRequest
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.jobs.transcript import Transcripts
from streamer.model.typed import as_signal
from streamer.web import answers, parameters, wire
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import job_document, listed_job
from streamer.web.operations import jobs as operations
from streamer.web.rates import RequestRates
from streamer.web.streams import StreamHandlers

__all__ = ["JobHandlers"]

LINKS: Final = ("job", "stream", "stdin", "signal", "cast", "output", "files")
ANY_ID: Final = "thejobsid"


@dataclass(frozen=True)
class JobHandlers:
    jobs: Jobs
    access: Access
    rates: RequestRates
    bodies: Bodies
    transcripts: Transcripts
    streams: StreamHandlers
    _paths: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What comes before and after a job's id in the path of each of its links."""

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.EXECUTE.route(self.execute),
            operations.LIST.route(self.list_jobs),
            operations.SHOW.route(self.show_job),
            operations.CANCEL.route(self.delete_job),
            operations.WRITE.route(self.write_stdin),
            operations.SIGNAL.route(self.send_signal),
            operations.RESIZE.route(self.resize),
        ]

    async def execute(self, request: web.Request) -> web.StreamResponse:
        """Accept a job; answer at once, or with its stream, or after a bounded wait."""
        tenant = self.access.require(request, "submit")
        await self.rates.take(request, tenant)
        wait_s = parameters.prefer_wait_s(request)
        streaming = "text/event-stream" in request.headers.get("Accept", "")
        measured = parameters.flag(request, "stats")
        if streaming:
            self.streams.check_room(tenant)  # refuse before a job is accepted
        async with self.bodies.read(request, tenant) as body:
            idempotency = parameters.idempotency(request, body)
            spec = wire.parse_job(body)  # checks the types
            body.clear()
            job = await self.jobs.accept(
                spec,
                tenant=tenant,
                idempotency=idempotency,
                traceparent=parameters.traceparent(request),
            )
        if streaming:
            try:
                # A client cannot have seen events of a new job.
                asked = self.streams.asked(request) if job.replayed else 0
                return await self.streams.follow(request, job, tenant, asked, measured=measured)
            except Busy:
                pass  # the last place was taken meanwhile: the job runs, so return its links
        if wait_s is not None and not streaming and await _ends_within(job, wait_s):
            headers = {**self._job_headers(request, job), "Preference-Applied": f"wait={wait_s:g}"}
            return json_answer(await self._document(request, job), headers=headers)
        status: JobState = (await job.view()).state if job.replayed else "queued"
        accepted = answers.Accepted(job.id, status, self.links(request, job.id))
        return json_answer(accepted, status=202, headers=self._job_headers(request, job))

    async def show_job(self, request: web.Request) -> web.Response:
        job, _ = await self.access.named(request, "read", self.jobs)
        return json_answer(await self._document(request, job))

    async def list_jobs(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "list")
        limit = parameters.number(request, "limit", 50, 1, operations.MAX_LIST)
        views = await self.jobs.list(
            tenant=tenant,
            state=parameters.state(request),
            limit=limit,
            before=parameters.cursor(request),
        )
        keep_s = self.jobs.config.streams.retention_s
        jobs = [listed_job(view, self.links(request, view.job.job_id), keep_s) for view in views]
        cursor = None
        if len(views) == limit:
            cursor = parameters.cursor_text((views[-1].created_at, views[-1].job.job_id))
        return json_answer(answers.JobList(jobs, cursor))

    async def delete_job(self, request: web.Request) -> web.Response:
        """Cancel a job, or delete the record of a finished one."""
        job, _ = await self.access.named(request, "cancel", self.jobs)
        if parameters.flag(request, "purge"):
            if not await job.purge():
                raise Conflict("the job is not over: cancel it first")
            return web.Response(status=204)
        if await job.cancel() == "done":
            raise Conflict("the job is over; to remove its record add ?purge=1")
        return json_answer(answers.Cancelled(job.id, (await job.view()).state), status=202)

    async def write_stdin(self, request: web.Request) -> web.Response:
        job, view = await self.access.named(request, "write", self.jobs)
        if not view.job.interactive:
            raise Conflict("the job takes no input: it was not submitted with interactive: true")
        closing = parameters.flag(request, "close")
        seq = parameters.offset(request, "seq")
        async with self.bodies.read(request, view.tenant) as body:
            size = len(body)
            outcome = await job.write(bytes(body), seq=seq) if body else "accepted"
        if closing and outcome == "accepted":
            outcome = await job.end_input(seq=None if seq is None else seq + size)
        if outcome == "closed":
            raise Conflict("the program's input is closed")
        return json_answer(answers.InputTaken(job.id, size, closing), status=202)

    async def send_signal(self, request: web.Request) -> web.Response:
        job, view = await self.access.named(request, "signal", self.jobs)
        async with self.bodies.read(request, view.tenant) as body:
            name = wire.parse_signal(body)
        try:
            number = as_signal(name)
        except ValueError as error:
            raise InvalidRequest(str(error), path="$.signal") from None
        if await job.signal(number) == "closed":
            raise Conflict("the job is over")
        return json_answer(answers.SignalSent(job.id, name), status=202)

    async def resize(self, request: web.Request) -> web.Response:
        job, view = await self.access.named(request, "write", self.jobs)
        if view.job.terminal is None:
            raise Conflict("the job has no terminal: it was submitted without one")
        async with self.bodies.read(request, view.tenant) as body:
            size = wire.parse_size(body)
        if await job.resize(size.cols, size.rows) == "closed":
            raise Conflict("the job is over")
        return json_answer(answers.Resized(job.id, size.cols, size.rows), status=202)

    async def _document(self, request: web.Request, job: Job) -> answers.Job:
        # The view first: if the job is over in it, the text is complete.
        view = await job.view()
        text = await self.transcripts.text(job.id, job.follow, again=view.job.retry > 0)
        keep_s = self.jobs.config.streams.retention_s
        return job_document(view, text, self.links(request, job.id), keep_s)

    def links(self, request: web.Request, job_id: str) -> answers.JobLinks:
        if not self._paths:
            self._find_paths(request.app.router)
        paths = self._paths.items()
        return answers.JobLinks(**{name: f"{before}{job_id}{end}" for name, (before, end) in paths})

    def _find_paths(self, router: web.UrlDispatcher) -> None:
        """Ask the router once: its routes do not change any more when requests come."""
        # From the router, so that they have the prefix in a host application; only the operator
        # knows what a proxy has stripped.
        base = self.jobs.config.server.public_url.rstrip("/")
        for name in LINKS:
            more = {"stream": "stdout"} if name == "output" else {}
            path = router[f"streamer-{name}"].url_for(job_id=ANY_ID, **more)
            before, _, after = str(path).rpartition(ANY_ID)
            self._paths[name] = (base + before, after)
        self._paths["cancel"] = self._paths["job"]

    def _job_headers(self, request: web.Request, job: Job) -> dict[str, str]:
        headers = {"Location": self.links(request, job.id).job, "X-Job-Id": job.id}
        return {**headers, "Idempotency-Replayed": "true"} if job.replayed else headers


async def _ends_within(job: Job, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await job.result()
    except TimeoutError:
        return False
    return True

"""The handlers that follow jobs: streams, several jobs in one stream, downloads, recordings."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web
from msgspec.structs import replace

from streamer.engine.interface import JobView
from streamer.errors import Gone, InvalidRequest, UnknownJob
from streamer.eventlog.cursor import Cursor
from streamer.eventlog.log import EventLog
from streamer.eventlog.view import LogView
from streamer.jobs.downloads import CastSource, OutputSource
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.jobs.replay import PacedSource
from streamer.jobs.transcript import EventsGone
from streamer.jobs.usage import MeasuredSource
from streamer.model.events import StreamName
from streamer.sse.bytestream import ByteStream
from streamer.sse.response import client_id, id_number
from streamer.sse.session import Source
from streamer.sse.sessionmap import Full, SessionMap
from streamer.sse.sources import LogSource, MergedSource, merged_positions
from streamer.web import answers
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import timestamp
from streamer.web.operations import streams as operations
from streamer.web.parameters import flag, speed
from streamer.web.problems import limited
from streamer.web.siblings import SIBLINGS

__all__ = ["StreamHandlers"]

READERS: Final = msgspec.json.Decoder(list[answers.Reader])

MAX_NUMBER: Final = 10**15
"""More events than any log has."""


@dataclass(frozen=True)
class StreamHandlers:
    jobs: Jobs
    sessions: SessionMap
    access: Access

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.FOLLOW.route(self.stream),
            operations.FOLLOW_MANY.route(self.stream_many),
            operations.OUTPUT.route(self.output),
            operations.CAST.route(self.cast),
            operations.READERS.route(self.list_sessions),
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Follow a job's log from where the client left it, or replay it at its own pace."""
        job, view = await self.access.named(request, "read", self.jobs)
        pace, measured = speed(request), flag(request, "stats")
        asked = self.asked(request)
        return await self.follow(request, job, view.tenant, asked, pace, measured=measured)

    def asked(self, request: web.Request) -> int:
        """Return the number of the last event that the client has; 0 if it sends none."""
        return id_number(client_id(request, self.sessions.options), MAX_NUMBER)

    async def follow(
        self,
        request: web.Request,
        job: Job,
        tenant: str,
        asked: int = 0,
        speed: float = 0.0,
        *,
        measured: bool = False,
    ) -> web.StreamResponse:
        """Answer with a job's events after event `asked`; `speed` 0 means as fast as possible.

        With `measured` also with what it uses, unless it is a replay.
        """
        async with job.follow(asked) as log:
            after = asked if asked <= log.last_id else 0
            if log.done and after == log.last_id:
                # This stops a browser's EventSource for good.
                return web.Response(status=204, headers=_headers(job))
            async with AsyncExitStack() as held:
                cursor = held.enter_context(log.cursor(after))
                source: Source = LogSource(cursor)
                if speed > 0:
                    source = self._paced(cursor, await job.view(), speed)
                elif measured and not log.done:
                    usage = await held.enter_async_context(self.jobs.usage.follow(job.id))
                    newest = held.enter_context(usage.cursor(usage.last_id))
                    source = MeasuredSource(cursor, usage, newest)
                return await self._answer(request, (job.id,), source, _headers(job), tenant)

    def _paced(self, cursor: Cursor, view: JobView, speed: float) -> PacedSource:
        end_ms = None
        if view.finished_at is not None:
            end_ms = int((view.finished_at - view.created_at) * 1000)
        beat_s = self.sessions.options.heartbeat_s
        return PacedSource(cursor, speed=speed, end_ms=end_ms, heartbeat_s=beat_s)

    async def stream_many(self, request: web.Request) -> web.StreamResponse:
        """Follow several jobs in one stream, since browsers can only open a few."""
        job_ids = tuple(dict.fromkeys(request.query.getall("job", [])))
        if not 1 <= len(job_ids) <= operations.MAX_MERGED:
            raise InvalidRequest(
                f"name 1 to {operations.MAX_MERGED} jobs: ?job=ID&job=ID", path="?job"
            )
        text = client_id(request, self.sessions.options)
        asked = dict(zip(job_ids, _asked(text, len(job_ids)), strict=True))
        async with AsyncExitStack() as stack:
            found: dict[str, LogView | None] = {}
            tenant = ""
            for job_id, after in asked.items():
                opened = await self._opened(request, job_id, after, stack)
                tenant, found[job_id] = opened or (tenant, None)
            logs: dict[str, LogView] = {}
            for job_id, log in found.items():
                if log is None and (not any(found.values()) or not asked[job_id]):
                    raise UnknownJob(f"there is no job {job_id!r}", path="?job")
                logs[job_id] = _expired(asked[job_id]) if log is None else log
            positions = merged_positions(text, tuple(logs.values()))
            pairs = tuple(zip(logs.values(), positions, strict=True))
            if all(log.done and after >= log.last_id for log, after in pairs):
                return web.Response(status=204)
            sources = {
                job_id: LogSource(stack.enter_context(log.cursor(after)))
                for job_id, (log, after) in zip(logs, pairs, strict=True)
            }
            merged = MergedSource(sources, _with_job_id)
            return await self._answer(request, job_ids, merged, {}, tenant)

    async def output(self, request: web.Request) -> web.StreamResponse:
        """Send the raw output of one stream, to its end."""
        job, view = await self.access.named(request, "read", self.jobs)
        stream: StreamName = "stderr" if request.match_info["stream"] == "stderr" else "stdout"
        follow = flag(request, "follow", default=True)
        async with job.follow() as log:
            _check_beginning(log)
            with log.cursor() as cursor:
                source = OutputSource(cursor, stream, follow=follow)
                return await self._download(
                    request, view, source, "application/octet-stream", f"{job.id}.{stream}"
                )

    async def cast(self, request: web.Request) -> web.StreamResponse:
        job, view = await self.access.named(request, "read", self.jobs)
        title = view.job.language or "command"
        async with job.follow() as log:
            _check_beginning(log)
            with log.cursor() as cursor:
                source = CastSource(
                    cursor,
                    created_at=view.created_at,
                    title=title,
                    terminal=view.job.terminal,
                )
                return await self._download(
                    request, view, source, "application/x-asciicast", f"{job.id}.cast"
                )

    async def list_sessions(self, request: web.Request) -> web.Response:
        job, _ = await self.access.named(request, "read", self.jobs)
        # The address of a reader is not for everybody who has a link to the job.
        told = await self.access.may(request, "viewers", job)
        readers = self._readers(job.id)
        if (others := request.config_dict.get(SIBLINGS)) is not None:
            all_of = {others.own: readers}
            for number, text in (await others.ask(f"readers {job.id}")).items():
                all_of[number] = READERS.decode(text)
            # So that no two of them have the same.
            readers = [
                replace(reader, id=reader.id * others.count + number - 1)
                for number, of_one in sorted(all_of.items())
                for reader in of_one
            ]
        if not told:
            readers = [replace(reader, peer=None) for reader in readers]
        return json_answer(answers.Readers(readers))

    def _readers(self, job_id: str) -> list[answers.Reader]:
        return [
            answers.Reader(
                id=view.number,
                peer=view.peer,
                since=timestamp(view.since),
                position=view.position,
                lag=view.lag,
            )
            for view in self.sessions.views(job_id)
        ]

    async def tell_readers(self, job_id: str) -> str:
        """Tell the other processes who follows a job at this one."""
        return msgspec.json.encode(self._readers(job_id)).decode()

    async def _opened(
        self, request: web.Request, job_id: str, after: int, stack: AsyncExitStack
    ) -> tuple[str, LogView] | None:
        """Return a job's tenant and its log, open until `stack` is closed; None: no such job."""
        job = self.jobs.job(job_id)
        try:
            view = await self.access.job(request, "read", job)
            return view.tenant, await stack.enter_async_context(job.follow(after))
        except UnknownJob:
            return None

    def check_room(self, tenant: str) -> None:
        """Raise `RateLimited` if no further stream can be opened."""
        try:
            self.sessions.check_room(tenant)
        except Full as full:
            raise limited(full) from None

    async def _answer(
        self,
        request: web.Request,
        job_ids: tuple[str, ...],
        source: Source,
        headers: Mapping[str, str],
        client: str,
    ) -> web.StreamResponse:
        try:
            return await self.sessions.follow(
                request, job_ids, source, headers=headers, client=client
            )
        except Full as full:
            raise limited(full) from None

    async def _download(
        self,
        request: web.Request,
        view: JobView,
        source: OutputSource,
        content_type: str,
        name: str,
    ) -> web.StreamResponse:
        headers = {
            "Content-Type": content_type,
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
            # A browser must never show a program's output as a page of ours.
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "sandbox",
            "X-Accel-Buffering": "no",
        }
        response = ByteStream(request, self.sessions.options, headers)
        try:
            # Without the end of the body the client knows that the rest is missing.
            with contextlib.suppress(EventsGone):
                await self.sessions.send(
                    request, response, view.job.job_id, source, client=view.tenant
                )
        except Full as full:
            raise limited(full) from None
        return response


def _headers(job: Job) -> dict[str, str]:
    return {"X-Job-Id": job.id, **({"Idempotency-Replayed": "true"} if job.replayed else {})}


def _check_beginning(log: LogView) -> None:
    if log.first_id > 1:
        raise Gone("the beginning of the output is no longer kept (streams.log_bytes)")


def _asked(text: str, count: int) -> list[int]:
    """Return the positions in a client's id; jobs in it may have expired."""
    parts = text.split(".")
    return [id_number(part, MAX_NUMBER) for part in parts] if len(parts) == count else [0] * count


def _expired(after: int) -> EventLog:
    """Return a log with a gap, for an expired job."""
    log = EventLog(first=after + 1)
    log.append([("gap", b'{"from":%d,"to":null,"reason":"expired"}' % (after + 1))], end=True)
    return log


def _with_job_id(job_id: str, data: bytes) -> bytes:
    # Every event's data is an object with at least one field. Quotes in strings are escaped, so
    # this can only be the field itself.
    if b'"jobId":"%b"' % job_id.encode() in data:
        return data
    return b'{"jobId":"%b",' % job_id.encode() + data[1:]

"""The handlers that open, show, list and end sessions, and read and write their workspaces."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final

from aiohttp import hdrs, web

from streamer.engine.sessions import SessionView
from streamer.errors import InvalidRequest
from streamer.jobs.filedownloads import FileSource
from streamer.jobs.jobs import Jobs
from streamer.jobs.sessions import NotModified, check_name
from streamer.model.job import Limits
from streamer.model.names import camel
from streamer.model.session import ANY_VERSION
from streamer.sse.sessionmap import SessionMap
from streamer.web import sessionanswers as answers
from streamer.web import wire
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import timestamp
from streamer.web.operations import sessions as operations
from streamer.web.ranges import asked_range, content_range
from streamer.web.rates import RequestRates
from streamer.web.sending import SAFE, saved_as, send
from streamer.web.uploads import arriving, check_plain, expected

__all__ = ["SessionHandlers"]

TAG: Final = re.compile('"([0-9]{1,18})"')
LIMITS: Final = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True)
class SessionHandlers:
    jobs: Jobs
    readers: SessionMap
    access: Access
    rates: RequestRates
    bodies: Bodies

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.OPEN.route(self.open),
            operations.LIST.route(self.list_sessions),
            operations.SHOW.route(self.show),
            operations.END.route(self.end),
            operations.FILES.route(self.list_files),
            operations.READ.route(self.read),
            operations.WRITE.route(self.write, expect=self._expect),
            operations.REMOVE.route(self.remove),
        ]

    async def open(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "submit")
        await self.rates.take(request, tenant)
        async with self.bodies.read(request, tenant) as body:
            spec = wire.parse_session(body)
        view = await self.jobs.sessions.open(spec, tenant=tenant)
        document = self._document(request, view)
        headers = {"Location": document.links.session}
        return json_answer(document, status=201, headers=headers)

    async def list_sessions(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "list")
        views = await self.jobs.sessions.list(tenant=tenant)
        return json_answer(answers.SessionList([self._document(request, view) for view in views]))

    async def show(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "read")
        view = await self.jobs.sessions.find(request.match_info["session_id"], tenant=tenant)
        return json_answer(self._document(request, view))

    async def end(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "cancel")
        await self.jobs.sessions.end(request.match_info["session_id"], tenant=tenant)
        return web.Response(status=204)

    async def list_files(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "read")
        listed = await self.jobs.sessions.files(request.match_info["session_id"], tenant=tenant)
        entries = [
            answers.SessionEntry(name=file.name, kind=file.kind, bytes=file.bytes)
            for file in listed.files
        ]
        return json_answer(answers.SessionFiles(entries, listed.complete))

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Send a file, or a part of it, as it is when the request comes."""
        tenant = self.access.require(request, "read")
        session_id, name = request.match_info["session_id"], request.match_info["path"]
        reading = self.jobs.sessions.read(
            session_id,
            name,
            asked_range(request.headers.get(hdrs.RANGE)),
            part_of=_version(request.headers.get(hdrs.IF_RANGE)),
            known=_known(request),
            tenant=tenant,
        )
        kept = {"Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
        try:
            async with reading as part:
                headers = {
                    **SAFE,
                    **kept,
                    "ETag": _tag(part.version),
                    "Content-Type": "application/octet-stream",
                    "Content-Disposition": saved_as(name),
                }
                if part.is_part:
                    sent = range(part.start, part.start + part.bytes)
                    headers["Content-Range"] = content_range(sent, part.total)
                source, size = FileSource(part.fd, 0, part.bytes), part.bytes
                return await send(self.readers, request, (), source, headers, size, client=tenant)
        except NotModified as same:
            return web.Response(status=304, headers={**kept, "ETag": _tag(same.version)})

    async def write(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "write")
        await self.rates.take(request, tenant)
        session_id, name = request.match_info["session_id"], request.match_info["path"]
        sessions = self.jobs.sessions
        check_name(name)
        mode = _mode(request)
        check_plain(request, "file")
        # Before its bytes are stored.
        await sessions.check_idle(session_id, tenant=tenant)
        if self._is_too_long(request):
            raise sessions.too_large()
        body = arriving(request, self.jobs.config)
        size = await sessions.write(session_id, name, body, mode=mode, tenant=tenant)
        return json_answer(answers.SessionFile(name, size))

    async def remove(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "write")
        session_id, name = request.match_info["session_id"], request.match_info["path"]
        await self.jobs.sessions.remove(session_id, name, tenant=tenant)
        return web.Response(status=204)

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        refusal = self.jobs.sessions.too_large() if self._is_too_long(request) else None
        return await expected(request, refusal)

    def _is_too_long(self, request: web.Request) -> bool:
        return (request.content_length or 0) > self.jobs.sessions.config.max_file_bytes

    def _document(self, request: web.Request, view: SessionView) -> answers.Session:
        session = view.session
        router = request.app.router
        base = self.jobs.config.server.public_url.rstrip("/")
        links = {
            name: base + str(router[f"streamer-{route}"].url_for(session_id=session.session_id))
            for name, route in (("session", "session"), ("files", "session-files"))
        }
        return answers.Session(
            session_id=session.session_id,
            status=view.state,
            sandbox=session.backend,
            environment=session.environment,
            languages=session.languages,
            keep_processes=session.keep_processes,
            network=session.network or bool(session.allow_hosts),
            limits={camel(name): getattr(session.limits, name) for name in LIMITS},
            idle_s=session.idle_s,
            metadata=session.metadata,
            created_at=timestamp(view.created_at),
            expires_at=timestamp(view.expires_at),
            links=answers.SessionLinks(**links),
        )


def _tag(version: int) -> str:
    return f'"{version}"'


def _version(tag: str | None) -> int | None:
    """Return the version that a tag says; 0, which is none, for any other tag; None without one."""
    if tag is None:
        return None
    found = TAG.fullmatch(tag.strip())
    return int(found[1]) if found else 0


def _known(request: web.Request) -> int | None:
    """Return the newest version that the client says it has: no older one comes again."""
    tags = [tag.value for tag in request.if_none_match or ()]
    if "*" in tags:
        return ANY_VERSION
    return max((_version(f'"{tag}"') or 0 for tag in tags), default=None)


def _mode(request: web.Request) -> int:
    text = request.query.get("mode", "644")
    if not wire.MODE.fullmatch(text):
        raise InvalidRequest('the mode must be three octal digits, such as "755"', path="?mode")
    return int(text, 8)

"""The handlers that take uploads of projects, show and delete them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from streamer.errors import Draining, InvalidRequest
from streamer.jobs.jobs import Jobs
from streamer.jobs.project import Project
from streamer.jobs.projects import too_large
from streamer.web import answers
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import timestamp
from streamer.web.operations import projects as operations
from streamer.web.rates import RequestRates
from streamer.web.uploads import arriving, check_plain, expected

__all__ = ["ProjectHandlers"]

FORM: Final = "multipart/form-data"
BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1."""
PARAMETER: Final = re.compile(
    r';[ \t]*(?:([^][()<>@,;:\\"/?=\s]+)=(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))[ \t]*)?'
)
"""One of a media type's (RFC 9110, 5.6.6); some programs write boundaries without quotes."""
QUOTED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True)
class ProjectHandlers:
    jobs: Jobs
    access: Access
    rates: RequestRates

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.UPLOAD.route(self.upload, expect=self._expect),
            operations.SHOW.route(self.show),
            operations.DELETE.route(self.delete),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "upload")
        await self.rates.take(request, tenant)
        if self.jobs.draining.is_set():
            raise Draining("the service is shutting down and takes no uploads", retry_after_s=5.0)
        if self._is_too_long(request):
            raise too_large(self.jobs.config.projects)
        check_plain(request, "archive")
        boundary = _boundary(request)
        project = await self.jobs.projects.upload(
            arriving(request, self.jobs.config), tenant=tenant, boundary=boundary
        )
        location = str(request.app.router[operations.SHOW.name].url_for(project_id=project.id))
        base = self.jobs.config.server.public_url.rstrip("/")
        return json_answer(
            _document(project), status=201, headers={hdrs.LOCATION: f"{base}{location}"}
        )

    async def show(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "read")
        project_id = request.match_info["project_id"]
        return json_answer(_document(await self.jobs.projects.find(project_id, tenant=tenant)))

    async def delete(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "upload")
        await self.jobs.projects.delete(request.match_info["project_id"], tenant=tenant)
        return web.Response(status=204)

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        refusal = too_large(self.jobs.config.projects) if self._is_too_long(request) else None
        return await expected(request, refusal)

    def _is_too_long(self, request: web.Request) -> bool:
        return (request.content_length or 0) > self.jobs.config.projects.max_upload_bytes


def _boundary(request: web.Request) -> bytes | None:
    """Return the boundary of a form; None for an archive, whatever type it has.

    Not by aiohttp and its parser of mail: 8 KiB of semicolons take that a second.
    """
    header = request.headers.get(hdrs.CONTENT_TYPE, "")
    media, _, _ = header.partition(";")
    if media.strip().lower() != FORM:
        return None
    at, boundary = len(media), ""
    while at < len(header) and (found := PARAMETER.match(header, at)) is not None:
        at = found.end()
        name, inside, plain = found.groups()
        if name is not None and name.lower() == "boundary":
            boundary = plain if inside is None else QUOTED.sub(r"\1", inside)
            break
    if not BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("the form has no valid boundary", path="Content-Type")
    return boundary.encode()


def _document(project: Project) -> answers.Project:
    return answers.Project(
        project_id=project.id,
        files=[answers.ProjectFile(file.name, file.bytes) for file in project.contents.files],
        expires_at=timestamp(project.expires_at),
    )

"""The handlers that take uploads of projects, show and delete them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from typing import Final

from aiohttp import hdrs, web

from streamer.errors import Draining, InvalidRequest, quoted
from streamer.jobs.jobs import Jobs
from streamer.jobs.project import Project
from streamer.jobs.projects import too_large
from streamer.web import answers
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.jobviews import timestamp
from streamer.web.operations import projects as operations
from streamer.web.problems import answer

__all__ = ["ProjectHandlers"]

FORM: Final = "multipart/form-data"
BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1."""


@dataclass(frozen=True)
class ProjectHandlers:
    jobs: Jobs
    access: Access

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.UPLOAD.route(self.upload, expect=self._expect),
            operations.SHOW.route(self.show),
            operations.DELETE.route(self.delete),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "upload")
        if self.jobs.draining.is_set():
            raise Draining("the service is shutting down and takes no uploads", retry_after_s=5.0)
        if self._is_too_long(request):
            raise too_large(self.jobs.config.projects)
        if hdrs.CONTENT_ENCODING in request.headers:
            raise InvalidRequest(
                "send the archive as it is, without Content-Encoding", path="Content-Encoding"
            )
        boundary = _boundary(request)
        project = await self.jobs.projects.upload(
            self._body(request), tenant=tenant, boundary=boundary
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
        """Refuse what is too large before it is sent, where the client waits for that (curl)."""
        expected = request.headers[hdrs.EXPECT]
        if expected.lower() != "100-continue":
            return answer(InvalidRequest(f"unknown Expect: {quoted(expected)}", path="Expect"))
        if self._is_too_long(request):
            response = answer(too_large(self.jobs.config.projects))
            response.force_close()
            return response
        if request.version >= (1, 1):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The response has not begun with that.
            request.writer.output_size = 0
        return None

    def _is_too_long(self, request: web.Request) -> bool:
        return (request.content_length or 0) > self.jobs.config.projects.max_upload_bytes

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        """Yield what arrives; it must not pause for long, nor arrive for longer than allowed."""
        config = self.jobs.config
        idle_s, timeout_s = config.server.body_timeout_s, config.projects.upload_timeout_s
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        chunks = aiter(request.content.iter_any())
        while True:
            try:
                async with asyncio.timeout_at(min(loop.time() + idle_s, end)):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                late = f"within {timeout_s:g} s" if loop.time() >= end else "without long pauses"
                raise InvalidRequest(f"the upload did not arrive {late}") from None
            except web.RequestPayloadError:
                # aiohttp would read to its end after the response, and fail with a traceback.
                request.content.feed_eof()
                raise InvalidRequest("the body does not match its Transfer-Encoding") from None
            yield chunk


def _boundary(request: web.Request) -> bytes | None:
    """Return the boundary of a form; None for an archive, whatever type it has."""
    if request.content_type != FORM:
        return None
    header = Message()
    header[hdrs.CONTENT_TYPE] = request.headers[hdrs.CONTENT_TYPE]
    boundary = header.get_boundary("")
    if not BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("the form has no valid boundary", path="Content-Type")
    return boundary.encode()


def _document(project: Project) -> answers.Project:
    return answers.Project(
        project_id=project.id,
        files=[answers.ProjectFile(file.name, file.bytes) for file in project.contents.files],
        expires_at=timestamp(project.expires_at),
    )

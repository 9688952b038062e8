"""The handlers that list the files of jobs and send them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import web

from streamer.engine.blobs import JobFile
from streamer.engine.interface import JobView
from streamer.errors import InvalidRequest, NotFound, quoted
from streamer.jobs.archives.zipped import archive_bytes
from streamer.jobs.filedownloads import FileSource, ZipSource, read_at
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.model.filenames import why_not_name
from streamer.sse.sessionmap import SessionMap
from streamer.web import answers
from streamer.web.callers.access import GRANT, Access
from streamer.web.documents import json_answer
from streamer.web.operations import files as operations
from streamer.web.parameters import choice, flag
from streamer.web.previews import HEAD_BYTES, preview_type
from streamer.web.ranges import byte_range, content_range
from streamer.web.sending import SAFE, saved_as, send

__all__ = ["FileHandlers"]


@dataclass(frozen=True)
class FileHandlers:
    jobs: Jobs
    sessions: SessionMap
    access: Access

    def routes(self) -> list[web.RouteDef]:
        return [operations.LIST.route(self.list_files), operations.READ.route(self.read_file)]

    def address(self, router: web.UrlDispatcher, job_id: str) -> str:
        """Return what the addresses of all files of a job begin with."""
        base = self.jobs.config.server.public_url.rstrip("/")
        return f"{base}{router['streamer-files'].url_for(job_id=job_id)}/"

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        job, view = await self.access.named(request, "read", self.jobs)
        archive = choice(request, "archive", ("zip",))
        files = await job.files()
        if archive is not None:
            return await self._send_archive(request, job, view, files)
        address = self.address(request.app.router, job.id)
        with_grant = f"?grant={request.query['grant']}" if GRANT in request else ""
        listed = [
            answers.JobFile(
                name=file.name,
                bytes=file.blob.bytes,
                sha256=file.blob.sha256,
                url=address + quote(file.name) + with_grant,
            )
            for file in files
        ]
        return json_answer(answers.Files(listed))

    async def read_file(self, request: web.Request) -> web.StreamResponse:
        job, view = await self.access.named(request, "read", self.jobs)
        name = request.match_info["path"]
        if why := why_not_name(name):
            raise InvalidRequest(why, path="path")
        inline = flag(request, "inline")
        file = next((one for one in await job.files() if one.name == name), None)
        if file is None:
            raise NotFound(f"the job has left no file {quoted(name)}")
        return await self._send_file(request, job, view, file, inline=inline)

    async def _send_file(
        self, request: web.Request, job: Job, view: JobView, file: JobFile, *, inline: bool
    ) -> web.StreamResponse:
        size, tag = file.blob.bytes, f'"{file.blob.sha256}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if _has_it(request, file.blob.sha256):
            return web.Response(status=304, headers=headers)
        whole = request.headers.get("If-Range", tag) != tag
        part = None if whole else byte_range(request.headers.get("Range"), size)
        sent = range(size) if part is None else part
        media = None
        if inline:
            async with job.open_file(file, part=range(min(size, HEAD_BYTES))) as fd:
                media = preview_type(await read_at(fd, HEAD_BYTES, 0))
        async with job.open_file(file, part=sent) as fd:
            headers |= {
                **SAFE,
                "Accept-Ranges": "bytes",
                "Content-Type": media or "application/octet-stream",
                "Content-Disposition": saved_as(file.name, inline=media is not None),
            }
            if part is not None:
                headers["Content-Range"] = content_range(part, size)
            source = FileSource(fd, sent.start, sent.stop)
            return await send(
                self.sessions, request, job.id, source, headers, len(sent), client=view.tenant
            )

    async def _send_archive(
        self, request: web.Request, job: Job, view: JobView, files: Sequence[JobFile]
    ) -> web.StreamResponse:
        made_at = view.finished_at or view.created_at
        headers = {
            **SAFE,
            "Cache-Control": "no-store",
            "Content-Type": "application/zip",
            "Content-Disposition": saved_as(f"{job.id}.zip"),
        }
        size = archive_bytes(files, made_at)
        async with contextlib.aclosing(ZipSource(job, files, made_at)) as source:
            return await send(
                self.sessions, request, job.id, source, headers, size, client=view.tenant
            )


def _has_it(request: web.Request, sha256: str) -> bool:
    tags = request.if_none_match or ()
    return any(tag.value in (sha256, "*") for tag in tags)

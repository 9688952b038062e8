"""Read and save the files of finished jobs; a lost connection is continued where it broke."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
from yarl import URL

from streamer.client.connection import Connection, Verbs, pause_s
from streamer.client.documents import FileDocument, FileList
from streamer.client.jobs import job_path
from streamer.client.problem import check, not_a_service
from streamer.errors import InvalidRequest
from streamer.model.filenames import why_not_name
from streamer.saving import save

__all__ = ["FileVerbs", "path_of"]

UNKNOWN: Final = -1


def path_of(name: str) -> str:
    """Return the name of a file as a part of an address. Raises `InvalidRequest`."""
    if why := why_not_name(name):  # `..` would lead to other addresses
        raise InvalidRequest(why)
    return quote(name)


class FileVerbs(Verbs):
    """What can be done with the files that a job has left."""

    async def files(self, job_id: str) -> list[FileDocument]:
        """Return the files that a job has left, of those that it asked for (``artifacts``).

        Each has ``name``, ``bytes``, ``sha256`` and ``url``. There are none before it is over.
        """
        return (await self._connection.call("GET", job_path(job_id, "/files"), FileList))["files"]

    def read_file(
        self, job_id: str, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one of them, in pieces of any size.

        Those from `start` on and before `end`, counted from 0; by default all. A lost connection is
        continued where it broke. Raises `InvalidRequest` for what is no name of a file or no such
        range, `ServiceProblem` (404) if there is no such file, and (416) if it ends before `start`.
        """
        if start < 0 or (end is not None and end <= start):
            raise InvalidRequest(f"no bytes are from {start} to {end}: 0 <= start < end")
        url = self._connection.url(job_path(job_id, f"/files/{path_of(name)}"))
        return _pieces(self._connection, url, start, end)

    async def download(
        self, job_id: str, folder: str | os.PathLike[str], names: Sequence[str] | None = None
    ) -> list[Path]:
        """Save the files that a job has left beneath a folder, and return where they are.

        With `names` only those. Folders are made; a file that is there already is replaced; no link
        beneath the folder is followed. Raises OSError if one cannot be written or is not what the
        service has listed, `ServiceProblem` (404) if there is no file with such a name.
        """
        digests = {file["name"]: file["sha256"] for file in await self.files(job_id)}
        saved = []
        for name in digests if names is None else names:
            content = _digested(self.read_file(job_id, name), digests.get(name), name)
            await save(os.fspath(folder), name, content)
            saved.append(Path(folder, name))
        return saved


async def _digested(
    pieces: AsyncGenerator[bytes, None], expected: str | None, name: str
) -> AsyncGenerator[bytes, None]:
    """Pass the pieces of a file on. Raises OSError at its end if its SHA-256 is another."""
    digest = hashlib.sha256()
    async with aclosing(pieces):
        async for piece in pieces:
            digest.update(piece)
            yield piece
    if expected is not None and digest.hexdigest() != expected:
        raise OSError(f"{name}: the bytes that came are not those of the file; download it again")


async def _pieces(
    connection: Connection, url: URL, start: int, end: int | None
) -> AsyncGenerator[bytes, None]:
    """Yield a file, or a part of it, at `url`.

    After `retries` failures in a row what aiohttp raises is raised.
    """
    download = _Download(connection.http, url, start, end)
    failures = 0
    while not download.complete:
        before = download.at
        try:
            async with aclosing(download.attempt()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
            failures = 0 if download.at > before else failures + 1
            if failures > connection.retries:
                raise
            await asyncio.sleep(pause_s(failures))


class _Download:
    """A file, or a part of one, that is being read. `at` is where the next byte of it is."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, start: int, end: int | None):
        self._session = session
        self._url = url
        self._tag = ""
        self._first = start
        self._end = end
        self._stop = UNKNOWN
        self.at = start

    @property
    def complete(self) -> bool:
        return self.at == self._stop

    async def attempt(self) -> AsyncGenerator[bytes, None]:
        """Yield what has not come yet, as far as the connection lasts."""
        headers = {"Accept-Encoding": "identity"}
        partly = self.at > 0 or self._end is not None
        if partly:
            last = "" if self._end is None else self._end - 1
            headers["Range"] = f"bytes={self.at}-{last}"
        if self._tag:
            headers["If-Range"] = self._tag
        async with self._session.get(self._url, headers=headers) as response:
            await check(response)
            wanted = 206 if partly else 200
            if response.status != wanted or response.content_length is None:
                raise not_a_service(response.status)  # or it is not the same file any more
            if self._stop == UNKNOWN:
                self._stop = self.at + response.content_length
                self._tag = response.headers.get("ETag", "")
            async for chunk in response.content.iter_any():
                self.at += len(chunk)
                yield chunk
        if not self.complete:
            raise aiohttp.ClientPayloadError("the end of the file is missing")

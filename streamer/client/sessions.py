"""A session of a remote service: jobs that share one workspace, and its files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Self, Unpack
from urllib.parse import quote

import aiohttp

from streamer.bounded import ends_in
from streamer.client.connection import Connection
from streamer.client.documents import (
    Nothing,
    SessionDocument,
    SessionFileDocument,
    SessionFileList,
)
from streamer.client.fields import JobFields
from streamer.client.files import path_of
from streamer.client.problem import ServiceProblem
from streamer.client.request import with_wire_names
from streamer.errors import StreamerError
from streamer.model.job import JobSpec

if TYPE_CHECKING:
    from streamer.client.client import Client
    from streamer.client.run import Run

__all__ = ["RemoteSession"]

END_S: Final = 5.0
"""How long leaving the context may take to end the session."""

GONE: Final = 410


class RemoteSession:
    """A session, returned by `Client.session`; as a context manager it is opened, and ended.

    Once it has ended all raise `ServiceProblem` with status 410 that says why; while a job of it
    runs, those about files with status 409.
    """

    def __init__(
        self,
        client: Client,
        connection: Connection,
        session_id: str | None,
        fields: Mapping[str, Any],
    ) -> None:
        """`connection` is the client's own."""
        self._client = client
        self._call = connection.call
        self._fetch = connection.fetch
        self._id = session_id
        self._fields = fields

    @property
    def id(self) -> str:
        """What a job names in ``sessionId``. Raises `StreamerError` before it is open."""
        if self._id is None:
            raise StreamerError("open the session first: `async with client.session() as session:`")
        return self._id

    async def __aenter__(self) -> Self:
        if self._id is None:
            await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What cannot be reached ends it by itself, after its idle time.
        with contextlib.suppress(aiohttp.ClientError, StreamerError):
            await ends_in(END_S, self.end())

    async def open(self) -> SessionDocument:
        """Open it, and return its document; it must then be ended."""
        body = json.dumps(with_wire_names(self._fields)).encode()
        document = await self._call("POST", "api/sessions", SessionDocument, body=body, twice=False)
        self._id = document["sessionId"]
        return document

    async def document(self) -> SessionDocument:
        """Return the document of ``GET /api/sessions/{id}``, described in docs/http.md."""
        return await self._call("GET", self._path(), SessionDocument)

    async def end(self) -> None:
        """End it, and all that runs in it; without effect if it has ended.

        Raises `ServiceProblem` (404) if the service knows, or remembers, no such session.
        """
        try:
            await self._call("DELETE", self._path(), Nothing)
        except ServiceProblem as problem:
            if problem.status != GONE:
                raise

    # -- jobs ---------------------------------------------------------------------------

    async def submit(
        self,
        job: JobSpec | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[JobFields],
    ) -> str:
        """Submit a job of the session; as `Client.submit`."""
        job = self._inside(job, fields)
        return await self._client.submit(job, idempotency_key=idempotency_key, **fields)

    def run(
        self,
        job: JobSpec | None = None,
        *,
        idempotency_key: str | None = None,
        cancel_on_close: bool = False,
        stats: bool = False,
        **fields: Unpack[JobFields],
    ) -> Run:
        """Run a job of the session; as `Client.run`."""
        job = self._inside(job, fields)
        how: dict[str, bool] = {"cancel_on_close": cancel_on_close, "stats": stats}
        return self._client.run(job, idempotency_key=idempotency_key, **how, **fields)

    def _inside(self, job: JobSpec | None, fields: JobFields) -> JobSpec | None:
        if job is not None:
            return replace(job, session_id=self.id)
        fields["session_id"] = self.id
        return None

    # -- files --------------------------------------------------------------------------

    async def files(self) -> list[SessionFileDocument]:
        """Return what is in the workspace: each has ``name``, ``kind`` and ``bytes``."""
        return (await self._call("GET", f"{self._path()}/files", SessionFileList))["files"]

    async def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return await self._fetch(self._path(name))

    async def write(
        self, name: str, content: bytes | str | IO[bytes], *, mode: int = 0o644
    ) -> None:
        """Write a file: bytes, text as UTF-8, or an open file; the folders of its name are made."""
        body = content.encode() if isinstance(content, str) else content
        params = {"mode": f"{mode:03o}"}
        await self._call("PUT", self._path(name), Nothing, body=body, params=params)

    async def remove(self, name: str) -> None:
        """Remove a file, a link, or an empty folder."""
        await self._call("DELETE", self._path(name), Nothing, twice=False)

    def _path(self, name: str | None = None) -> str:
        path = f"api/sessions/{quote(self.id, safe='')}"
        return path if name is None else f"{path}/files/{path_of(name)}"

"""Sessions: open one, find and end it, and read and write its workspace between its jobs.

The worker that has the session does it; this half asks by way of the engine. Bytes go as blobs.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from streamer.config.schema import Config
from streamer.engine.blobs import Blob
from streamer.engine.interface import Broker
from streamer.engine.sessions import SessionView, session_gone
from streamer.errors import (
    BackendUnavailable,
    Busy,
    Conflict,
    EngineUnavailable,
    Gone,
    InvalidJob,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServiceError,
    StreamerError,
    TooLarge,
)
from streamer.jobs.opensession import SessionResolver
from streamer.jobs.project import Project
from streamer.jobs.receiving import receive
from streamer.jobs.workers import Workers
from streamer.model.filenames import why_not_name
from streamer.model.ranges import ByteRange, Unsatisfiable
from streamer.model.session import (
    Known,
    Listed,
    ListFiles,
    Open,
    ReadFile,
    Refusal,
    Refused,
    RemoveFile,
    SessionAnswer,
    SessionRequest,
    SessionSpec,
    Stored,
    WriteFile,
)

__all__ = ["NotModified", "SessionPart", "Sessions", "check_name"]

UPLOAD: Final = "session-upload"
KEEP_S: Final = 600.0
"""What a stopped process has left is deleted then."""

MOST_ARRIVING: Final = 2
"""Files that are received for one session at a time; each takes some pieces of memory."""

OPEN_WAIT_S: Final = 90.0
"""Longer than any worker takes; if there is none with room, the caller is told."""
ASK_WAIT_S: Final = 180.0
"""A request has limits of its own at the worker; this is in case one does not."""


@dataclass(frozen=True, slots=True)
class SessionPart:
    """A file or a part of it: a descriptor with `bytes` bytes, which begin at `start` of `total`.

    Every file is the same as long as `version` is, which is that of the workspace.
    """

    fd: int
    start: int
    bytes: int
    total: int
    version: int
    is_part: bool


class NotModified(Exception):
    """The file is as it was in the version that the reader knows."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


class Sessions:
    """The sessions of a service; see `streamer.jobs.jobs.Jobs.sessions`."""

    def __init__(
        self,
        config: Config,
        engine: Broker,
        resolver: SessionResolver,
        workers: Workers,
        project: Callable[[str | None, str], Awaitable[Project | None]],
    ) -> None:
        self.config = config.sessions
        self._engine = engine
        self._resolver = resolver
        self._workers = workers
        self._project = project
        self._arriving: Counter[str] = Counter()

    async def open(self, spec: SessionSpec, *, tenant: str = "") -> SessionView:
        """Open a session, and return when its sandbox is there.

        Raises `InvalidJob`, `Forbidden`, `Busy` or `RateLimited` if there are too many, `Draining`,
        `NoWorker` if none could have it, and `BackendUnavailable` if its sandbox cannot be opened.
        """
        published = await self._workers.published()
        workers, languages = self._workers.for_session(spec, published)
        project = await self._project(spec.project_id, tenant)
        session = self._resolver.resolve_session(
            spec, _new_id(), workers, languages, tenant, project
        )
        self._workers.check_session(session, published)
        async with contextlib.AsyncExitStack() as unless_open:
            # Also while it is being accepted: an engine may be far away.
            unless_open.push_async_callback(self._engine.sessions.end, session.session_id)
            await self._engine.sessions.open(session)
            try:
                async with asyncio.timeout(OPEN_WAIT_S):
                    answer = await self._engine.sessions.ask(session.session_id, Open())
            except TimeoutError:
                raise Busy("no worker has room for a session: try again later") from None
            except Gone:
                raise BackendUnavailable("the sandbox of the session could not be opened") from None
            if isinstance(answer, Refused):
                raise InvalidJob(answer.message, path="$.projectId")
            unless_open.pop_all()
        return await self.find(session.session_id, tenant=tenant)

    async def find(self, session_id: str, *, tenant: str = "") -> SessionView:
        """Return a session. Raises `NotFound`, and `Gone` if it has ended."""
        view = await self._engine.sessions.find(session_id)
        # Another tenant's looks like an unknown one.
        if view is None or view.session.tenant != tenant:
            raise NotFound(f"there is no session {session_id!r}")
        if view.ended is not None:
            raise session_gone(view.ended)
        return view

    async def named(self, session_id: str, tenant: str) -> SessionView:
        """Return the session that a job names. The errors of `find` have that as their place."""
        try:
            return await self.find(session_id, tenant=tenant)
        except (NotFound, Gone) as error:
            error.path = "$.sessionId"
            raise

    async def list(self, *, tenant: str = "") -> Sequence[SessionView]:
        """Return the tenant's sessions that have not ended, newest first."""
        return await self._engine.sessions.of(tenant)

    async def end(self, session_id: str, *, tenant: str = "") -> None:
        """End a session, and all that runs in it. Raises `NotFound`, `Gone`."""
        await self.find(session_id, tenant=tenant)
        await self._engine.sessions.end(session_id)

    # -- its workspace --------------------------------------------------------------------

    async def files(self, session_id: str, *, tenant: str = "") -> Listed:
        """List the workspace. All of these raise `Conflict` while a job of the session runs."""
        await self._idle(session_id, tenant)
        answer = await self._asked(session_id, ListFiles())
        assert isinstance(answer, Listed)
        return answer

    @asynccontextmanager
    async def read(
        self,
        session_id: str,
        name: str,
        part: ByteRange | None = None,
        *,
        part_of: int | None = None,
        known: int | None = None,
        tenant: str = "",
    ) -> AsyncIterator[SessionPart]:
        """Open a file, or a part of it, as it is now; read it with pread(2) in a thread.

        If the workspace has another version than `part_of`, it is all of the file. Raises
        `NotModified` if it has the version `known`, `NotFound`, `Conflict` if it is not a regular
        file, `TooLarge`, and `Unsatisfiable` (416).
        """
        check_name(name)
        await self._idle(session_id, tenant)
        stored = await self._asked(session_id, ReadFile(name, part, part_of, known))
        if isinstance(stored, Known):
            raise NotModified(stored.version)
        assert isinstance(stored, Stored)
        blobs = self._engine.blobs
        async with contextlib.AsyncExitStack() as held:
            try:
                fd = await held.enter_async_context(blobs.open(stored.blob_id))
            finally:
                await blobs.delete(stored.blob_id)  # what is open can still be read
            yield SessionPart(
                fd, stored.start, stored.bytes, stored.total, stored.version, stored.is_part
            )

    async def write(
        self,
        session_id: str,
        name: str,
        data: AsyncIterator[bytes],
        *,
        mode: int = 0o644,
        tenant: str = "",
    ) -> int:
        """Write a file, with the folders of its name; return its size.

        What it replaces is lost if it does not fit: then `TooLarge` is raised. `Conflict` if
        something else than a file is there.
        """
        check_name(name)
        await self._idle(session_id, tenant)
        with self._counted(session_id):
            blob = await self._received(data, tenant)
        try:
            await self._asked(session_id, WriteFile(name, mode, blob.id))
        finally:
            await self._engine.blobs.delete(blob.id)
        return blob.bytes

    async def _received(self, data: AsyncIterator[bytes], tenant: str) -> Blob:
        blobs, most = self._engine.blobs, self.config.max_file_bytes
        async with blobs.create(tenant, most, kind=UPLOAD, keep_s=KEEP_S) as writer:
            await receive(data, writer, most, self.too_large)
            return await writer.commit()
        raise AssertionError

    @contextmanager
    def _counted(self, session_id: str) -> Iterator[None]:
        """Count a file that is being received."""
        if self._arriving[session_id] >= MOST_ARRIVING:
            raise RateLimited("other files for the session are being received: try again later")
        self._arriving[session_id] += 1
        try:
            yield
        finally:
            self._arriving[session_id] -= 1
            if not self._arriving[session_id]:
                del self._arriving[session_id]

    async def remove(self, session_id: str, name: str, *, tenant: str = "") -> None:
        """Remove a file, a link, or an empty folder. Raises `NotFound`, `Conflict`."""
        check_name(name)
        await self._idle(session_id, tenant)
        await self._asked(session_id, RemoveFile(name))

    def too_large(self) -> TooLarge:
        return TooLarge(
            f"a file may have at most {self.config.max_file_bytes} bytes (sessions.max_file_bytes)"
        )

    async def check_idle(self, session_id: str, *, tenant: str = "") -> None:
        """Raise what a request about files would raise, before anything is sent for it."""
        await self._idle(session_id, tenant)

    async def _idle(self, session_id: str, tenant: str) -> None:
        # The worker decides; this is only sooner.
        if (await self.find(session_id, tenant=tenant)).state == "running":
            raise Conflict("a job of the session runs: wait for its end")

    async def _asked(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        try:
            async with asyncio.timeout(ASK_WAIT_S):
                answer = await self._engine.sessions.ask(session_id, request)
        except TimeoutError:
            raise ServiceError("the worker of a session did not answer a request") from None
        if isinstance(answer, Refused):
            raise _error_of(answer)
        return answer


def check_name(name: str) -> None:
    """Check the name of a file in a workspace. Raises `InvalidRequest`."""
    if why := why_not_name(name):
        raise InvalidRequest(why, path="path")


ERRORS: Final[Mapping[Refusal, type[StreamerError]]] = {
    "not_found": NotFound,
    "conflict": Conflict,
    "too_large": TooLarge,
    "limited": RateLimited,
    "failed": ServiceError,
}


def _error_of(refused: Refused) -> StreamerError:
    if refused.kind == "range":
        return Unsatisfiable(refused.total)
    if refused.kind == "away":
        return EngineUnavailable(refused.message, retry_after_s=5.0)
    if refused.kind == "full":
        return Busy(refused.message, code="storage_full")
    return ERRORS[refused.kind](refused.message)


def _new_id() -> str:
    """Return 128 random bits as 26 letters and digits: the id gives access to the session."""
    return base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()

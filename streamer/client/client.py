"""Use a service from Python, over HTTP; lost connections are resumed automatically.

A stream is resumed after the last event that arrived, so a caller sees every event once, in
order, and the terminal event last. Requests that were refused for lack of capacity are repeated,
and so are requests without an answer if repeating them is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
import msgspec

from streamer.client.batch import submitted_together
from streamer.client.connection import MAX_RETRY_AFTER_S, TRANSIENT, Connection, pause_s
from streamer.client.files import files_of, path_of, pieces
from streamer.client.problem import ServiceProblem, check, not_a_service
from streamer.client.request import request_of, with_wire_names
from streamer.client.run import Run
from streamer.client.sessions import RemoteSession
from streamer.eventlog.frames import EventParser
from streamer.eventlog.joblog import Event
from streamer.model.events import KINDS, TERMINAL_KINDS, decode
from streamer.model.job import JobSpec
from streamer.model.typed import as_bytes, typed_spec
from streamer.packing import opened_upload

__all__ = ["Client"]


MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
MAX_INPUT_PAUSE_S: Final = 1.0


class Client:
    """A connection to one service. Use it as an asynchronous context manager.

    `url` is where the service is mounted; `token` is sent as a bearer token. With `grant`, which
    another client has made, one job can be read without a token. `retries` is how often a call is
    repeated after it was refused for lack of capacity (429, 503) or, if repeating it is safe, lost
    its connection. Refusals raise `ServiceProblem`; an unknown or expired job raises its subclass
    `UnknownJob`. If the service cannot be reached, a call raises `aiohttp.ClientError` or
    TimeoutError; following a job waits for the service instead.
    """

    def __init__(
        self, url: str, *, token: str | None = None, grant: str | None = None, retries: int = 3
    ) -> None:
        self._connection = Connection(url, token, retries, grant)
        self._call = self._connection.call

    async def __aenter__(self) -> Self:
        self._connection.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    # -- jobs ---------------------------------------------------------------------------

    async def submit(
        self, job: JobSpec | None = None, *, idempotency_key: str | None = None, **fields: Any
    ) -> str:
        """Submit a job and return its id.

        Give a `JobSpec`, or the fields of ``POST /api/execute`` by their names there or in
        `JobSpec`. The same `idempotency_key` always means the same job: with a key of your own
        you find the job again after a crash. Without one each call makes one new job, however
        often its request is repeated.
        """
        if job is not None and fields:
            raise TypeError(f"give a JobSpec or fields, not both: {', '.join(sorted(fields))}")
        request = with_wire_names(fields) if job is None else request_of(typed_spec(job))
        body = json.dumps(request).encode()
        headers = {
            "Idempotency-Key": secrets.token_hex(16)
            if idempotency_key is None
            else idempotency_key,
            "Content-Type": "application/json",
        }
        answer = await self._call("POST", "api/execute", body=body, headers=headers)
        if not isinstance(job_id := answer.get("jobId"), str):
            raise not_a_service(202)
        return job_id

    async def batch(
        self,
        jobs: Sequence[JobSpec | Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
    ) -> list[str | ServiceProblem]:
        """Submit up to 100 jobs at once; return the id of each, or why it was refused.

        In their order. Each is a `JobSpec`, or the fields of ``POST /api/execute``; the key is as
        in `submit`. Those that were refused for lack of capacity are submitted again, as often as a
        call is repeated. Raises `ServiceProblem` if none of them was looked at.
        """
        return await submitted_together(self._connection, jobs, idempotency_key)

    def run(
        self,
        job: JobSpec | None = None,
        *,
        idempotency_key: str | None = None,
        cancel_on_close: bool = False,
        stats: bool = False,
        **fields: Any,
    ) -> Run:
        """Submit a job and yield its events, up to and including the terminal event.

        The arguments are those of `submit`, and `stats` is that of `events`. With `cancel_on_close`
        a job that is not over is cancelled when the run is closed: use ``async with client.run(...)
        as run``, which also closes it when the loop is left early.
        """
        return Run(self, job, idempotency_key, fields, cancel_on_close=cancel_on_close, stats=stats)

    async def events(
        self, job_id: str, after: int = 0, *, stats: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield a job's events after number `after`, then live ones, up to the terminal event.

        With `stats` also what it uses (`streamer.events.Stats`), once a second while its programs
        run; such an event has the number of the one before. Yields nothing if `after` is the
        terminal event. Raises `UnknownJob` if the job is unknown or has expired.
        """
        failures = 0
        while True:
            asked_s = 0.0
            try:
                stream = self._stream(job_id, after, stats=stats)
                async with contextlib.aclosing(stream):
                    async for event in stream:
                        after, failures = event.id, 0
                        yield event
                        if event.kind in TERMINAL_KINDS:
                            return
            except _Over:
                return
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                pass  # resumed below, after the last event that arrived
            except ServiceProblem as problem:
                if problem.status not in TRANSIENT:
                    raise
                asked_s = min(problem.retry_after or 0.0, MAX_RETRY_AFTER_S)
            await asyncio.sleep(max(asked_s, pause_s(failures)))
            failures += 1

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return the document of ``GET /api/jobs/{job_id}``, described in docs/http.md."""
        return await self._call("GET", f"api/jobs/{quote(job_id, safe='')}")

    async def jobs(self, *, status: str | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the caller's jobs, newest first: the documents of `job` without the output."""
        wanted = {"limit": "100"} if status is None else {"limit": "100", "status": status}
        cursor: str | None = None
        while True:
            query = wanted if cursor is None else {**wanted, "cursor": cursor}
            page = await self._call("GET", "api/jobs", params=query)
            for document in page["jobs"]:
                yield document
            cursor = page["nextCursor"]
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job, without waiting for it. No effect on a job that is over."""
        try:
            await self._call("DELETE", f"api/jobs/{quote(job_id, safe='')}")
        except ServiceProblem as problem:
            if problem.status != 409:
                raise

    async def purge(self, job_id: str) -> None:
        """Delete all that is kept of a job. Raises `ServiceProblem` (409) if it is not over."""
        path = f"api/jobs/{quote(job_id, safe='')}"
        await self._call("DELETE", path, params={"purge": "1"})

    async def write(
        self, job_id: str, data: bytes | str, *, close: bool = False, seq: int | None = None
    ) -> None:
        """Send bytes, or text as UTF-8, to the program's standard input; `close` ends the input.

        Waits while the program has not read its earlier input and the job runs. `seq` is where the
        data begins in all input of the job: then it is sent again if there was no answer, and the
        program gets it once.
        """
        path = f"api/jobs/{quote(job_id, safe='')}/stdin"
        query = {"close": "1"} if close else {}
        if seq is not None:
            query["seq"] = str(seq)
        sent = as_bytes(data)
        waits = 0
        left = 0 if seq is None else self._connection.retries
        while True:
            try:
                await self._call("POST", path, body=sent, params=query, twice=False, retries=0)
            except ServiceProblem as problem:
                if problem.status != 429:
                    if not left or problem.status not in TRANSIENT:
                        raise
                    left -= 1
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                if not left:
                    raise
                left -= 1
            else:
                return
            await asyncio.sleep(min(pause_s(waits), MAX_INPUT_PAUSE_S))
            waits += 1

    async def end_input(self, job_id: str) -> None:
        """Close the program's standard input. Raises `ServiceProblem` (409) if it is closed."""
        await self.write(job_id, b"", close=True)

    async def signal(self, job_id: str, name: str) -> None:
        """Send a signal by name (``SIGINT``). Raises `ServiceProblem` (409) if the job is over."""
        path = f"api/jobs/{quote(job_id, safe='')}/signal"
        await self._call("POST", path, body=json.dumps({"signal": name}).encode(), twice=False)

    async def resize(self, job_id: str, cols: int, rows: int) -> None:
        """Give the job's terminal another size.

        Raises `ServiceProblem` (409) if the job has none, or is over.
        """
        path = f"api/jobs/{quote(job_id, safe='')}/resize"
        body = json.dumps({"cols": cols, "rows": rows}).encode()
        await self._call("POST", path, body=body)

    async def grant(
        self, job_id: str, *, expires_s: float | None = None, files: bool = True
    ) -> dict[str, Any]:
        """Make a link with which anybody may read a job until it expires, by default for an hour.

        Returns ``grant``, ``expiresAt`` and ``links``. With `files` it opens those that the job
        leaves, too.
        """
        path = f"api/jobs/{quote(job_id, safe='')}/grants"
        wanted = {"files": files} if expires_s is None else {"files": files, "expiresS": expires_s}
        return await self._call("POST", path, body=json.dumps(wanted).encode())

    # -- the files that jobs leave ------------------------------------------------------

    async def files(self, job_id: str) -> list[dict[str, Any]]:
        """Return the files that a job has left, of those that it asked for (``artifacts``).

        Each has ``name``, ``bytes``, ``sha256`` and ``url``. There are none before it is over.
        """
        path = f"api/jobs/{quote(job_id, safe='')}/files"
        return files_of(await self._call("GET", path))

    def read_file(self, job_id: str, name: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one of them, in pieces of any size.

        A lost connection is continued where it broke. Raises `InvalidRequest` for what is no name
        of a file, `ServiceProblem` (404) if there is no such file.
        """
        url = f"api/jobs/{quote(job_id, safe='')}/files/{path_of(name)}"
        return pieces(
            self._connection.http, self._connection.url(url), self._connection.retries, pause_s
        )

    # -- projects -----------------------------------------------------------------------

    async def upload(self, path: str | Path) -> dict[str, Any]:
        """Upload a folder, or a zip, tar, tar.gz or tar.zst archive, and return its document.

        Its ``projectId`` is what jobs name; it has ``files`` and ``expiresAt``, too. Raises OSError
        if the path cannot be read, and `InvalidRequest` if a folder has a link in it.
        """
        with contextlib.ExitStack() as opened:
            file = await asyncio.to_thread(opened.enter_context, opened_upload(path))
            return _project(await self._call("POST", "api/projects", body=file, twice=False))

    async def project(self, project_id: str) -> dict[str, Any]:
        """Return the document of a project. Raises `ServiceProblem` (404) if there is none."""
        return _project(await self._call("GET", f"api/projects/{quote(project_id, safe='')}"))

    async def delete_project(self, project_id: str) -> None:
        """Delete a project. The jobs that were submitted with it keep it."""
        await self._call("DELETE", f"api/projects/{quote(project_id, safe='')}")

    # -- sessions -----------------------------------------------------------------------

    def session(self, session_id: str | None = None, **fields: Any) -> RemoteSession:
        """Return a session: jobs that share one workspace, and its files.

        Use it as ``async with client.session() as session``: it is opened with the fields of ``POST
        /api/sessions``, or it is the open one with this id; and it is ended at the end.
        """
        if session_id is not None and fields:
            raise TypeError("give the id of an open session, or the fields of a new one")
        return RemoteSession(self, self._connection, session_id, fields)

    async def sessions(self) -> list[dict[str, Any]]:
        """Return the documents of the caller's sessions, newest first."""
        listed: list[dict[str, Any]] = (await self._call("GET", "api/sessions"))["sessions"]
        return listed

    # -- the service --------------------------------------------------------------------

    async def queue(self) -> dict[str, Any]:
        """Return ``running``, ``waiting``, ``capacity``, ``maxWaiting``: numbers of jobs.

        ``estimatedWaitS`` is how long a new job would wait, in seconds.
        """
        return await self._call("GET", "api/queue")

    async def runtimes(self) -> list[dict[str, Any]]:
        """Return the languages as ``GET /api/runtimes`` lists them.

        Each has ``name``, ``aliases``, ``entry``, ``compiled``, ``available`` and ``reason``: None,
        or why it is not available.
        """
        listed: list[dict[str, Any]] = (await self._call("GET", "api/runtimes"))["runtimes"]
        return listed

    async def sandboxes(self) -> list[dict[str, Any]]:
        """Return the sandboxes as ``GET /api/sandboxes`` lists them.

        Each has ``name``, ``isolation``, ``available`` and ``reason``, ``default``, ``selectable``
        (whether a job may name it), and in ``enforces`` how each limit is enforced.
        """
        listed: list[dict[str, Any]] = (await self._call("GET", "api/sandboxes"))["sandboxes"]
        return listed

    # -- shared -------------------------------------------------------------------------

    async def _stream(self, job_id: str, after: int, *, stats: bool) -> AsyncGenerator[Event, None]:
        headers = {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = str(after)
        url = self._connection.url(f"api/stream/{quote(job_id, safe='')}")
        if stats:
            url = url.update_query({"stats": "1"})
        async with self._connection.http.get(url, headers=headers) as response:
            await check(response)
            if response.status == 204 and after:
                raise _Over
            if response.status != 200:
                raise not_a_service(response.status)
            parser = EventParser(most_bytes=MAX_EVENT_BYTES)
            async for chunk in response.content.iter_any():
                try:
                    events = [
                        Event(_number(number, kind, after), kind, decode(kind, data.encode()))
                        for number, kind, data in parser.feed(chunk)
                        if kind in KINDS  # a newer service may have further kinds
                    ]
                except (ValueError, msgspec.MsgspecError):
                    raise not_a_service(response.status) from None
                for event in events:
                    yield event


def _number(text: str, kind: str, after: int) -> int:
    """Return the number of an event; only that of ``stats`` may be that of the one before."""
    return after if kind == "stats" and not text else int(text)


class _Over(Exception):
    """The service has no events after the one seen last: that was the terminal event."""


def _project(document: dict[str, Any]) -> dict[str, Any]:
    has_id = isinstance(document.get("projectId"), str)
    if not has_id or not isinstance(document.get("files"), list):
        raise not_a_service(200)
    return document

"""Use a service from Python: the same verbs, over HTTP, resuming by itself.

A dropped connection is taken up again after the last event that arrived, so a caller sees
every event once and in order, and the terminal one last.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec
from yarl import URL

from streamer.errors import CallerError, StreamerError, UnknownJob
from streamer.events import KINDS, TERMINAL_KINDS, decode
from streamer.log import Event
from streamer.sse.frames import EventParser

__all__ = ["Client", "ServiceProblem"]

CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 100.0
"""Three heartbeats: a stream that is silent for longer is dead."""
MAX_PAUSE_S: Final = 10.0
TRANSIENT: Final = frozenset({429, 502, 503, 504})


class ServiceProblem(CallerError):
    """What the service answered instead: its problem document (RFC 9457)."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        detail = document.get("detail") or document.get("title") or f"HTTP status {status}"
        super().__init__(
            str(detail), path=document.get("path"), code=str(document.get("code", "internal"))
        )
        self.status = status


class Client:
    """A connection to one service. Use it as an asynchronous context manager.

    `url` is where the service is mounted; `token` is sent as a bearer token. Refusals of
    the service raise `ServiceProblem`; a service that cannot be reached raises
    `aiohttp.ClientError` on a submission and is waited for while a job is followed.
    """

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._base = URL(url if url.endswith("/") else url + "/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
        )
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def submit(self, **job: Any) -> str:
        """Submit a job, given as the fields of ``POST /api/execute``; return its id."""
        # With a key a repeated submission after a lost answer is the same job.
        headers = {
            "Idempotency-Key": secrets.token_hex(16),
            "Content-Type": "application/json",
        }
        # As a file, which aiohttp sends in pieces: it warns of large bodies in one.
        body = io.BytesIO(json.dumps(job).encode())
        answer = await self._call("POST", "api/execute", data=body, headers=headers)
        return str(answer["jobId"])

    async def run(self, **job: Any) -> AsyncIterator[Event]:
        """Submit a job and yield its events to the terminal one."""
        job_id = await self.submit(**job)
        async for event in self.events(job_id):
            yield event

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """Yield a job's events after number `after`, then live ones, to the terminal one.

        Raises `UnknownJob` when the job is unknown or has expired.
        """
        pause_s = 0.2
        while True:
            try:
                async for event in self._stream(job_id, after):
                    after, pause_s = event.id, 0.2
                    yield event
                    if event.kind in TERMINAL_KINDS:
                        return
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                pass  # taken up again below, after the last event that arrived
            except ServiceProblem as problem:
                if problem.status not in TRANSIENT:
                    raise
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return a job's document."""
        return await self._call("GET", f"api/jobs/{job_id}")

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job; one that is over already is left as it is."""
        try:
            await self._call("DELETE", f"api/jobs/{job_id}")
        except ServiceProblem as problem:
            if problem.status != 409:
                raise

    async def write(self, job_id: str, data: bytes, *, close: bool = False) -> None:
        """Send bytes to the program's standard input; `close` ends it."""
        path = f"api/jobs/{job_id}/stdin" + ("?close=1" if close else "")
        await self._call("POST", path, data=data)

    async def signal(self, job_id: str, name: str) -> None:
        """Send a signal, by name, to the program."""
        await self._call("POST", f"api/jobs/{job_id}/signal", json={"signal": name})

    async def _stream(self, job_id: str, after: int) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = str(after)
        url = self._base.join(URL(f"api/stream/{job_id}"))
        async with self._open.get(url, headers=headers) as response:
            await _check(response)
            if response.status == 204:
                raise UnknownJob("the job is over and its last event was seen before")
            parser = EventParser()
            async for chunk in response.content.iter_any():
                for number, kind, data in parser.feed(chunk):
                    if kind in KINDS:  # a newer service may have more
                        yield Event(int(number), kind, decode(kind, data.encode()))

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        async with self._open.request(method, self._base.join(URL(path)), **options) as response:
            await _check(response)
            document: dict[str, Any] = msgspec.json.decode(await response.read() or b"{}")
            return document

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise StreamerError("use the client as `async with streamer.Client(...) as client:`")
        return self._session


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        document = msgspec.json.decode(await response.read(), type=dict[str, Any])
    except msgspec.DecodeError:
        document = {}
    raise ServiceProblem(response.status, document)

"""Use a service from Python, over HTTP; lost connections are resumed automatically.

Requests that were refused for lack of capacity are repeated, and so are requests without an answer
if repeating them is safe.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Self, Unpack

from streamer.client.connection import Connection
from streamer.client.documents import SessionDocument, SessionDocuments
from streamer.client.fields import JobFields, SessionFields
from streamer.client.files import FileVerbs
from streamer.client.inputs import InputVerbs
from streamer.client.projects import ProjectVerbs
from streamer.client.run import Run
from streamer.client.service import ServiceVerbs
from streamer.client.sessions import RemoteSession
from streamer.client.streams import StreamVerbs
from streamer.client.terminal import Attached
from streamer.model.job import JobSpec, TerminalSize

__all__ = ["Client"]


class Client(StreamVerbs, InputVerbs, FileVerbs, ProjectVerbs, ServiceVerbs):
    """A connection to one service. Use it as an asynchronous context manager.

    `url` is where the service is mounted; `token` is sent as a bearer token. With `grant`, which
    another client has made, one job can be read without a token. `retries` is how often a call is
    repeated after it was refused for lack of capacity (429, 503) or, if repeating it is safe, lost
    its connection. Refusals raise `ServiceProblem`; an unknown or expired job raises its subclass
    `UnknownJob`. If the service cannot be reached, a call raises `aiohttp.ClientError` or
    TimeoutError; following a job waits for the service instead. `SyncClient` does the same without
    ``await``.
    """

    def __init__(
        self, url: str, *, token: str | None = None, grant: str | None = None, retries: int = 3
    ) -> None:
        self._connection = Connection(url, token, retries, grant)

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

    def run(
        self,
        job: JobSpec | None = None,
        *,
        idempotency_key: str | None = None,
        cancel_on_close: bool = False,
        stats: bool = False,
        **fields: Unpack[JobFields],
    ) -> Run:
        """Submit a job and yield its events, up to and including the terminal event.

        The arguments are those of `submit`, and `stats` is that of `events`. With `cancel_on_close`
        a job that is not over is cancelled when the run is closed: use ``async with client.run(...)
        as run``, which also closes it when the loop is left early.
        """
        return Run(self, job, idempotency_key, fields, cancel_on_close=cancel_on_close, stats=stats)

    def attach(self, job_id: str, *, cancel_on_close: bool = False) -> Attached:
        """Return a job's output as bytes, and its input: see `Attached`."""
        return Attached(self, job_id, cancel_on_close=cancel_on_close)

    def terminal(
        self,
        *,
        cols: int = 80,
        rows: int = 24,
        idempotency_key: str | None = None,
        cancel_on_close: bool = True,
        **fields: Unpack[JobFields],
    ) -> Attached:
        """Run a job on a terminal of this size: ``async with client.terminal(...) as terminal``.

        The fields are those of `submit`. The bytes of its output are exact. A job that is not over
        when the block is left is cancelled, unless `cancel_on_close` is False.
        """
        fields["terminal"] = TerminalSize(cols, rows)
        fields["output_encoding"] = "base64"
        submit = partial(self.submit, idempotency_key=idempotency_key, **fields)
        return Attached(self, None, submit, cancel_on_close=cancel_on_close)

    def session(
        self, session_id: str | None = None, **fields: Unpack[SessionFields]
    ) -> RemoteSession:
        """Return a session: jobs that share one workspace, and its files.

        Use it as ``async with client.session() as session``: it is opened with the fields of ``POST
        /api/sessions``, or it is the open one with this id; and it is ended at the end.
        """
        if session_id is not None and fields:
            raise TypeError("give the id of an open session, or the fields of a new one")
        return RemoteSession(self, self._connection, session_id, fields)

    async def sessions(self) -> list[SessionDocument]:
        """Return the documents of the caller's sessions, newest first."""
        call = self._connection.call
        return (await call("GET", "api/sessions", SessionDocuments))["sessions"]

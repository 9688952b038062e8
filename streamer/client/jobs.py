"""Submit jobs, ask for them, list, cancel and delete them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Unpack
from urllib.parse import quote

from streamer.client.batch import submitted_together
from streamer.client.connection import Verbs
from streamer.client.documents import (
    GrantDocument,
    JobDocument,
    JobId,
    JobPage,
    Nothing,
    ReaderDocument,
    ReaderList,
)
from streamer.client.fields import JobFields
from streamer.client.problem import ServiceProblem
from streamer.client.request import request_of, with_wire_names
from streamer.model.job import JobSpec
from streamer.model.typed import typed_spec

__all__ = ["JobVerbs", "job_path"]


def job_path(job_id: str, rest: str = "") -> str:
    """Return the address of a job, or of something that belongs to it, below the service's."""
    return f"api/jobs/{quote(job_id, safe='')}{rest}"


class JobVerbs(Verbs):
    """What can be asked about jobs."""

    async def submit(
        self,
        job: JobSpec | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[JobFields],
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
        key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
        answer = await self._connection.call(
            "POST",
            "api/execute",
            JobId,
            body=json.dumps(request).encode(),
            headers={"Idempotency-Key": key, "Content-Type": "application/json"},
        )
        return answer["jobId"]

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

    async def job(self, job_id: str) -> JobDocument:
        """Return the document of ``GET /api/jobs/{job_id}``, described in docs/http.md."""
        return await self._connection.call("GET", job_path(job_id), JobDocument)

    async def jobs(self, *, status: str | None = None) -> AsyncGenerator[JobDocument, None]:
        """Yield the caller's jobs, newest first: the documents of `job` without the output."""
        wanted = {"limit": "100"} if status is None else {"limit": "100", "status": status}
        cursor: str | None = None
        while True:
            query = wanted if cursor is None else {**wanted, "cursor": cursor}
            page = await self._connection.call("GET", "api/jobs", JobPage, params=query)
            for document in page["jobs"]:
                yield document
            cursor = page["nextCursor"]
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> None:
        """Ask for the end of a job, without waiting for it. No effect on a job that is over."""
        try:
            await self._connection.call("DELETE", job_path(job_id), Nothing)
        except ServiceProblem as problem:
            if problem.status != 409:
                raise

    async def purge(self, job_id: str) -> None:
        """Delete all that is kept of a job. Raises `ServiceProblem` (409) if it is not over."""
        await self._connection.call("DELETE", job_path(job_id), Nothing, params={"purge": "1"})

    async def grant(
        self, job_id: str, *, expires_s: float | None = None, files: bool = True
    ) -> GrantDocument:
        """Make a link with which anybody may read a job until it expires, by default for an hour.

        With `files` it opens those that the job leaves, too. Its ``grant`` is for another client,
        its ``links`` are for anything else that speaks HTTP.
        """
        wanted = {"files": files} if expires_s is None else {"files": files, "expiresS": expires_s}
        body = json.dumps(wanted).encode()
        path = job_path(job_id, "/grants")
        return await self._connection.call("POST", path, GrantDocument, body=body)

    async def readers(self, job_id: str) -> list[ReaderDocument]:
        """Return who follows a job."""
        path = job_path(job_id, "/sessions")
        return (await self._connection.call("GET", path, ReaderList))["sessions"]

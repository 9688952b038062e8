"""Submit several jobs with one request, and again those that found no place."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from streamer.client.connection import MAX_RETRY_AFTER_S, REFUSED, Connection, pause_s
from streamer.client.problem import ServiceProblem, not_a_service
from streamer.client.request import request_of, with_wire_names
from streamer.model.job import JobSpec
from streamer.model.typed import typed_spec

__all__ = ["submitted_together"]

Submitted = str | ServiceProblem


async def submitted_together(
    connection: Connection, jobs: Sequence[JobSpec | Mapping[str, Any]], key: str | None
) -> list[Submitted]:
    """Return the id of each job, or why it was refused; see `Client.batch`."""
    requests = [
        request_of(typed_spec(job)) if isinstance(job, JobSpec) else with_wire_names(job)
        for job in jobs
    ]
    body = json.dumps(requests).encode()
    headers = {
        "Idempotency-Key": secrets.token_hex(16) if key is None else key,
        "Content-Type": "application/json",
    }
    told: list[Submitted] = []
    for failures in range(connection.retries + 1):
        try:
            documents, asked_s = await connection.call_each(
                "api/execute/batch", body=body, headers=headers
            )
            if len(documents) != len(requests):
                raise not_a_service(200)
            now = [_told(document, asked_s) for document in documents]
        except (aiohttp.ClientError, ServiceProblem, TimeoutError):
            if not told:
                raise
            break  # which jobs run is known, and must not be lost
        # A job that was accepted may be over and forgotten meanwhile.
        told = [
            earlier if isinstance(earlier, str) else later
            for earlier, later in zip(told or now, now, strict=True)
        ]
        # With the same key, all of them: those that were accepted are not accepted once more.
        again = any(map(_found_no_place, told)) and (asked_s or 0.0) <= MAX_RETRY_AFTER_S
        if not again or failures == connection.retries:
            break
        await asyncio.sleep(max(asked_s or 0.0, pause_s(failures)))
    return told


def _told(document: Mapping[str, Any], asked_s: float | None) -> Submitted:
    job_id, status = document.get("jobId"), document.get("status")
    if isinstance(job_id, str):
        return job_id
    if not isinstance(status, int):
        raise not_a_service(200)
    return ServiceProblem(status, document, asked_s if status in REFUSED else None)


def _found_no_place(told: Submitted) -> bool:
    if isinstance(told, str):
        return False
    return told.status in REFUSED and told.code != "sandbox_unavailable"

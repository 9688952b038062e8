"""Shared by the tests of the HTTP interface: submissions, refusals, and waiting for a state."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse

from streamer.engine.memory.engine import MemoryEngine
from tests.support import AnyClient, Received, parts_of, received

SLEEPER: dict[str, Any] = {"command": ["sleep", "60"]}
"""A job that runs until it is cancelled."""


def python(code: str, **fields: Any) -> dict[str, Any]:
    """Return a job that runs Python code."""
    return {"language": "python", "code": code, **fields}


async def job_of(client: AnyClient, headers: dict[str, str], **job: Any) -> str:
    """Submit a job, `SLEEPER` unless one is given, and return its id."""
    async with client.post("/api/execute", json=job or SLEEPER, headers=headers) as response:
        assert response.status == 202
        return str((await response.json())["jobId"])


async def problem(response: ClientResponse, status: int, code: str) -> dict[str, Any]:
    """Return the problem document (RFC 9457) of a refusal, and check that it is complete."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/problem+json"
    document: dict[str, Any] = json.loads(text)
    assert {"type", "title", "status", "detail", "code"} <= document.keys()
    assert (document["status"], document["code"]) == (status, code), text
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in text
    assert str(Path(__file__).parents[2]) not in text
    return document


async def lose_worker(client: AnyClient, job_id: str) -> None:
    """Let the lease of a running job in memory end, as that of a worker that is lost."""
    engine = parts_of(client).engine
    assert isinstance(engine, MemoryEngine)
    engine._table.running[job_id].lease_until = 0.0
    assert await engine.reap() == 1


async def until_output(events: AsyncIterator[Received], wanted: str) -> None:
    """Read events until the program has written a text."""
    so_far = ""
    async for event in events:
        if event.kind == "output":
            so_far += event.data["data"]
        if wanted in so_far:
            return
    raise AssertionError(f"the stream ended without {wanted!r}: {so_far!r}")


async def until_state(
    client: AnyClient, job_id: str, *states: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Follow a job until it has reached one of these states; return its document."""
    async with client.get(f"/api/stream/{job_id}", headers=headers) as response:
        async for event in received(response):
            if event.data.get("state", event.kind) in states:
                break
    async with client.get(f"/api/jobs/{job_id}", headers=headers) as response:
        document: dict[str, Any] = await response.json()
    return document

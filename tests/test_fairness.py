"""Two services as processes of their own, with one Redis server: whose job is next."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.redisserver import RedisServer
from tests.support import received
from tests.test_process import Server, serving

HELD = {"language": "bash", "code": "read -r", "interactive": True}
"""A job that runs until it gets a line."""


def of(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant}"}


async def submitted(server: Server, tenant: str, *jobs: Any) -> list[str]:
    async with server.session.post("/api/execute/batch", json=jobs, headers=of(tenant)) as response:
        assert response.status == 200
        return [told["jobId"] for told in await response.json()]


async def until(server: Server, tenant: str, job_id: str, *states: str) -> None:
    """Follow a job until it is in one of these states, or over."""
    async with server.session.get(f"/api/stream/{job_id}", headers=of(tenant)) as response:
        async for event in received(response):
            if event.data.get("state", event.kind) in states:
                return
    raise AssertionError(f"the stream of {job_id} ended")


async def queue(server: Server, tenant: str) -> Any:
    async with server.session.get("/api/queue", headers=of(tenant)) as response:
        return await response.json()


async def test_a_thousand_jobs_delay_a_single_one_by_one_of_them(
    redis: RedisServer, place: Path, need: Callable[[str], str]
) -> None:
    tokens = ", ".join(
        f'{{tenant = "{name}", sha256 = "{hashlib.sha256(name.encode()).hexdigest()}"}}'
        for name in ("many", "one")
    )
    options = {
        "sandbox.backend": need("bwrap"),
        "sandbox.warm": "false",
        "engine.url": redis.url(),
        "queue.concurrency": "1",
        "queue.max_waiting": "2000",
        "queue.max_per_client": "1500",
        # Without it a place would be left to the other tenant.
        "queue.max_running_per_client": "2",
        "auth.tokens": f"[{tokens}]",
        "server.drain_s": "0",
    }
    words = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    async with AsyncExitStack() as stack, asyncio.timeout(120):
        folders = [place / name for name in ("here", "there")]
        for folder in folders:
            folder.mkdir()
        here, there = [
            await stack.enter_async_context(serving(folder, *words)) for folder in folders
        ]
        running = await submitted(here, "many", HELD, HELD)
        for job_id in running:
            await until(there, "many", job_id, "running")
        for server in (here, there) * 5:
            running += await submitted(server, "many", *[HELD] * 100)
        for number, server in enumerate((there, here, there)):
            told = await queue(server, "one")
            assert (told["running"], told["waiting"]) == (2, 1000 - number)
            assert told["own"] == {"running": 0, "waiting": 0, "maxRunning": 2, "jobs": []}
            [single] = await submitted(server, "one", HELD)
            assert [job["position"] for job in (await queue(here, "one"))["own"]["jobs"]] == [1]
            # One of the many ends, wherever it ran, and none of them begins before the single one.
            at, ends = f"/api/jobs/{running[number]}/stdin", running[number]
            async with here.session.post(at, data=b"\n", headers=of("many")) as response:
                assert response.status == 202
            await until(here, "one", single, "running")
            told = await queue(server, "many")
            assert (told["own"]["running"], told["own"]["waiting"]) == (1, 1000 - number)
            at = f"/api/jobs/{single}/stdin"
            async with there.session.post(at, data=b"\n", headers=of("one")) as response:
                assert response.status == 202
            await until(there, "one", single, "complete")
            await until(there, "many", running[number + 2], "running")
            assert ends


pytestmark = pytest.mark.memory_engine("its engines are its own")

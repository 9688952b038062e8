"""What the service reports about itself: bounded lists, the queue, and optional metrics."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Start
from tests.support import submit
from tests.web import SLEEPER, problem, until_state


@pytest.mark.slow
async def test_a_list_has_so_many_jobs_and_no_more(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    ids = [await submit(client, **SLEEPER) for _ in range(205)]
    for query, most in (("", 50), ("?limit=1", 1), ("?limit=200", 200)):
        async with client.get(f"/api/jobs{query}") as response:
            document = await response.json()
        assert [job["jobId"] for job in document["jobs"]] == ids[::-1][:most]
        assert document["nextCursor"] is not None
    for wrong in ("201", "0", "-1", "1e2", "000000000201", "9" * 5000):
        async with client.get(f"/api/jobs?limit={wrong}") as response:
            document = await problem(response, 400, "invalid_request")
            assert document["path"] == "?limit"


async def test_the_queue_tells_how_long_one_would_wait(start: Start) -> None:
    client = await start(queue={"concurrency": 1, "max_waiting": 7})
    async with client.get("/api/queue") as response:
        assert await response.json() == {
            "running": 0,
            "waiting": 0,
            "capacity": 1,
            "maxWaiting": 7,
            "estimatedWaitS": 0,
            "own": {"running": 0, "waiting": 0, "maxRunning": None, "jobs": []},
        }
    await until_state(client, await submit(client, **SLEEPER), "running")
    for _ in range(3):
        await submit(client, **SLEEPER)
    waits: list[float] = []
    # The jobs have run for longer at each request and none has ended, so the wait grows.
    async with asyncio.timeout(20):
        while len({*waits}) < 3:
            async with client.get("/api/queue") as response:
                document = await response.json()
            assert (document["running"], document["waiting"]) == (1, 3)
            waits.append(document["estimatedWaitS"])
    assert waits == sorted(waits)
    assert waits[-1] > 0


async def test_metrics_are_there_unless_they_are_off(start: Start) -> None:
    client = await start()
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert "streamer_" in await response.text()
    client = await start(metrics={"enabled": False})
    async with client.get("/metrics") as response:
        document = await problem(response, 404, "not_found")
        assert "metrics.enabled" in document["detail"]

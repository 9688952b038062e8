"""The order of the queue and what is told of it, over HTTP."""

from __future__ import annotations

from typing import Any

from tests.conftest import Start
from tests.support import AnyClient, follow, submit
from tests.web import SLEEPER, python, until_state


async def document(client: AnyClient, path: str, **headers: str) -> dict[str, Any]:
    async with client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        told: dict[str, Any] = await response.json()
    return told


async def test_the_priority_of_a_job_decides_among_those_that_wait(start: Start) -> None:
    client = await start(queue={"concurrency": 1})
    running = await submit(client, **SLEEPER)
    await until_state(client, running, "running")
    first = await submit(client, **python("print(1)"))
    batch = [python("print(1)", priority=priority) for priority in (-10, 10, 3)]
    async with client.post("/api/execute/batch", json=batch) as response:
        last, urgent, early = [one["jobId"] for one in await response.json()]
    order = [urgent, early, first, last]
    waiting = [await document(client, f"/api/jobs/{job_id}") for job_id in order]
    assert [one["position"] for one in waiting] == [1, 2, 3, 4]
    assert [one["priority"] for one in waiting] == [10, 3, 0, -10]
    async with client.delete(f"/api/jobs/{running}") as response:
        assert response.status == 202
    for job_id in order:
        await follow(client, job_id)
    listed = (await document(client, "/api/jobs"))["jobs"]
    began = sorted((one["startedAt"], one["jobId"]) for one in listed)
    assert [job_id for _, job_id in began] == [running, *order]
    assert {one["jobId"]: one["priority"] for one in listed}[urgent] == 10

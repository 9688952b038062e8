"""No client can take everything: its share of the queue and of the places."""

from __future__ import annotations

import hashlib

from tests.conftest import Start
from tests.support import AnyClient, received, text
from tests.web import SLEEPER, problem, python, until_state

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}
TOKENS = {
    "tokens": [
        {"tenant": name, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
}


async def job_of(client: AnyClient, headers: dict[str, str], **job: object) -> str:
    async with client.post("/api/execute", json=job, headers=headers) as response:
        assert response.status == 202, await response.text()
        return str((await response.json())["jobId"])


async def test_a_share_of_the_queue_is_each_tenants_own(start: Start) -> None:
    client = await start(auth=TOKENS, queue={"concurrency": 1, "max_per_client": 2})
    await until_state(client, await job_of(client, ALICE, **SLEEPER), "running", headers=ALICE)
    for _ in range(2):
        await job_of(client, ALICE, **SLEEPER)
    async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
        await problem(response, 429, "rate_limited")
        assert int(response.headers["Retry-After"]) >= 1
    await job_of(client, BOB, **SLEEPER)


async def test_a_tenant_that_floods_the_service_leaves_a_place(start: Start) -> None:
    """By default, without any configuration."""
    client = await start(auth=TOKENS, queue={"concurrency": 2, "max_waiting": 6})
    first = await job_of(client, ALICE, **SLEEPER)
    await until_state(client, first, "running", headers=ALICE)
    waiting = [await job_of(client, ALICE, **SLEEPER) for _ in range(3)]
    async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
        await problem(response, 429, "rate_limited")
    theirs = await job_of(client, BOB, **python("print('mine')"))
    async with client.get(f"/api/stream/{theirs}", headers=BOB) as response:
        assert text([event async for event in received(response)]) == "mine\n"
    async with client.get(f"/api/jobs/{waiting[0]}", headers=ALICE) as response:
        job = await response.json()
    assert (job["status"], job["position"]) == ("queued", 1)
    async with client.delete(f"/api/jobs/{first}", headers=ALICE):
        await until_state(client, waiting[0], "running", headers=ALICE)


async def test_callers_who_are_not_told_apart_have_the_whole(start: Start) -> None:
    client = await start(queue={"concurrency": 2, "max_waiting": 2})
    jobs = [await job_of(client, {}, **SLEEPER)]
    await until_state(client, jobs[0], "running")
    jobs.append(await job_of(client, {}, **SLEEPER))
    await until_state(client, jobs[1], "running")
    for _ in range(2):
        await job_of(client, {}, **SLEEPER)
    async with client.post("/api/execute", json=SLEEPER) as response:
        await problem(response, 429, "queue_full")

"""The bounds of one tenant in the configuration, as callers meet them."""

from __future__ import annotations

from typing import Any

from tests.conftest import Start
from tests.jobs.archives import zip_of
from tests.support import AnyClient, received
from tests.web import SLEEPER, problem, until_state
from tests.web.test_shares import ALICE, BOB, TOKENS, job_of

BOUNDS = {
    "max_running": 1,
    "max_waiting": 1,
    "max_sessions": 0,
    "max_readers": 1,
    "max_blobs": 1,
}


async def refused(client: AnyClient, method: str, path: str, key: str, **body: Any) -> None:
    async with client.request(method, path, headers=ALICE, **body) as response:
        detail = (await problem(response, 429, "rate_limited"))["detail"]
        assert f"{key} in auth.tenants" in detail
        assert int(response.headers["Retry-After"]) >= 1


async def test_a_tenant_has_its_bounds_and_others_their_shares(start: Start) -> None:
    client = await start(auth={**TOKENS, "tenants": {"alice": BOUNDS}}, queue={"concurrency": 4})
    first = await job_of(client, ALICE, **SLEEPER)
    await until_state(client, first, "running", headers=ALICE)
    second = await job_of(client, ALICE, **SLEEPER)
    await refused(client, "POST", "/api/execute", "max_waiting", json=SLEEPER)
    async with client.get(f"/api/jobs/{second}", headers=ALICE) as response:
        assert (await response.json())["status"] == "queued", "though three places are free"
    await refused(client, "POST", "/api/sessions", "max_sessions", json={})
    async with client.get(f"/api/stream/{first}", headers=ALICE) as stream:
        await anext(received(stream))
        await refused(client, "GET", f"/api/stream/{first}", "max_readers")
    await refused(client, "POST", "/api/projects", "max_blobs", data=zip_of([("a", b"x")]))
    theirs = [await job_of(client, BOB, **SLEEPER) for _ in range(3)]
    for job_id in theirs:
        await until_state(client, job_id, "running", headers=BOB)
    await job_of(client, BOB, **SLEEPER)
    async with client.post("/api/sessions", json={}, headers=BOB) as response:
        assert response.status == 201

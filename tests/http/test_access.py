"""Who may use the service: tokens and tenants, and pages of other sites."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from aiohttp import web

import streamer
from streamer.engine import JobView
from tests.conftest import Start
from tests.http import SLEEPER, problem, python
from tests.support import AnyClient, received, text

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "bearer bob-token"}
TOKENS = {
    "tokens": [
        {"tenant": name, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
}


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start(auth=TOKENS)


async def job_of(client: AnyClient, headers: dict[str, str], **job: Any) -> str:
    async with client.post("/api/execute", json=job or SLEEPER, headers=headers) as response:
        assert response.status == 202
        return str((await response.json())["jobId"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/execute"),
        ("GET", "/api/jobs"),
        ("GET", "/api/runtimes"),
        ("GET", "/api/sandboxes"),
        ("GET", "/api/queue"),
        ("GET", "/metrics"),
    ],
)
async def test_without_a_known_token_there_is_nothing(
    client: AnyClient, method: str, path: str
) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic alice-token"},
        {"Authorization": "alice-token"},
        {"Authorization": "Bearer alice-tokenx"},
    ):
        async with client.request(method, path, headers=headers, json=SLEEPER) as response:
            await problem(response, 401, "unauthorized")
            assert response.headers["WWW-Authenticate"] == "Bearer"
    if method == "POST":
        # A token in the address would end up in logs; only EventSource has no other way.
        async with client.post(f"{path}?access_token=alice-token", json=SLEEPER) as response:
            await problem(response, 401, "unauthorized")


async def test_health_needs_no_token(client: AnyClient) -> None:
    for path in ("/healthz", "/readyz"):
        async with client.get(path) as response:
            assert response.status == 200


async def test_another_tenants_job_is_not_there(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE)
    for method, path, body in (
        ("GET", f"/api/jobs/{job_id}", None),
        ("GET", f"/api/stream/{job_id}", None),
        ("DELETE", f"/api/jobs/{job_id}", None),
        ("DELETE", f"/api/jobs/{job_id}?purge=1", None),
        ("POST", f"/api/jobs/{job_id}/stdin", {}),
        ("POST", f"/api/jobs/{job_id}/signal", {"signal": "SIGKILL"}),
    ):
        async with client.request(method, path, headers=BOB, json=body) as response:
            theirs = await problem(response, 404, "not_found")
        unknown = path.replace(job_id, job_id[::-1])
        async with client.request(method, unknown, headers=BOB, json=body) as response:
            nobodys = await problem(response, 404, "not_found")
        # The same answer, so that nobody learns which jobs there are.
        assert theirs["detail"].replace(job_id, job_id[::-1]) == nobodys["detail"]
    async with client.get("/api/jobs", headers=BOB) as response:
        assert (await response.json())["jobs"] == []
    async with client.get("/api/jobs", headers=ALICE) as response:
        (job,) = (await response.json())["jobs"]
    assert job["jobId"] == job_id
    assert job["status"] in ("queued", "preparing", "running")


async def test_a_stream_takes_its_token_from_the_query(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE, **python("print('mine')"))
    async with client.get(f"/api/stream/{job_id}?access_token=alice-token") as response:
        assert text([event async for event in received(response)]) == "mine\n"
    async with client.get(f"/api/stream/{job_id}") as response:
        await problem(response, 401, "unauthorized")


async def test_idempotency_keys_are_each_tenants_own(client: AnyClient) -> None:
    key = {"Idempotency-Key": "k"}
    assert await job_of(client, {**ALICE, **key}) == await job_of(client, {**ALICE, **key})
    assert await job_of(client, {**BOB, **key}) != await job_of(client, {**ALICE, **key})


async def test_a_share_of_the_queue_is_each_tenants_own(start: Start) -> None:
    client = await start(auth=TOKENS, queue={"concurrency": 1, "max_per_client": 2})
    for _ in range(3):  # one of them runs
        async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
            refused = response.status == 429
    for _ in range(3):
        async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
            refused = response.status == 429
    assert refused
    await job_of(client, BOB)


async def test_a_plugin_may_say_who_may_do_what(start: Start) -> None:
    asked: list[tuple[str, bool]] = []

    class Rules:
        @streamer.hookimpl
        def streamer_authorize(
            self, request: web.Request, action: str, job: JobView | None
        ) -> str | bool | None:
            asked.append((action, job is not None))
            return False if action == "cancel" else request.headers.get("X-User", "nobody")

    client = await start(plugins=(Rules(),))
    job_id = await job_of(client, {"X-User": "ann"})
    async with client.get(f"/api/jobs/{job_id}", headers={"X-User": "ann"}) as response:
        assert response.status == 200
    async with client.get(f"/api/jobs/{job_id}", headers={"X-User": "ben"}) as response:
        await problem(response, 404, "not_found")
    async with client.delete(f"/api/jobs/{job_id}", headers={"X-User": "ann"}) as response:
        await problem(response, 403, "forbidden")
    assert asked == [("submit", False), ("read", True), ("read", True), ("cancel", True)]


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example", "x"],
)
async def test_a_page_of_another_site_is_refused(start: Start, origin: str) -> None:
    client = await start()
    for method, path in (
        ("POST", "/api/execute"),
        ("GET", "/api/jobs"),
        ("OPTIONS", "/api/execute"),
    ):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with client.request(method, path, json=SLEEPER, headers=headers) as response:
            await problem(response, 403, "forbidden")
            assert "Access-Control-Allow-Origin" not in response.headers
    async with client.get("/api/jobs") as response:
        assert (await response.json())["jobs"] == []


async def test_its_own_page_may(start: Start) -> None:
    client = await start()
    origin = {"Origin": f"http://{client.host}:{client.port}"}
    await job_of(client, origin)


async def test_its_own_page_may_behind_a_proxy_that_changes_the_host(start: Start) -> None:
    client = await start()
    origin = {"Origin": "http://127.0.0.1:8081"}
    await job_of(client, {**origin, "Sec-Fetch-Site": "same-origin"})
    for site in ("same-site", "cross-site", "none", ""):
        headers = {**origin, "Sec-Fetch-Site": site}
        async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
            await problem(response, 403, "forbidden")


async def test_an_allowed_origin_may_even_stream(start: Start) -> None:
    origin = "https://app.example"
    client = await start(server={"allowed_origins": [origin]})
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with client.options("/api/execute", headers=headers) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        allowed = response.headers["Access-Control-Allow-Headers"].lower()
        for name in ("authorization", "content-type", "last-event-id", "idempotency-key"):
            assert name in allowed
    job = python("print(1)")
    async with client.post("/api/execute", json=job, headers={"Origin": origin}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert "Location" in response.headers["Access-Control-Expose-Headers"]
        job_id = (await response.json())["jobId"]
    async with client.get(f"/api/stream/{job_id}", headers={"Origin": origin}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert response.headers["Vary"] == "Origin"
        await response.read()
    # A page can read what it did wrong, too.
    async with client.post("/api/execute", json={}, headers={"Origin": origin}) as response:
        await problem(response, 400, "invalid_request")
        assert response.headers["Access-Control-Allow-Origin"] == origin
    async with client.get("/api/jobs", headers={"Origin": "https://other.example"}) as response:
        await problem(response, 403, "forbidden")


async def test_every_origin_may_where_that_is_configured(start: Start) -> None:
    client = await start(server={"allowed_origins": ["*"]})
    async with client.get("/api/jobs", headers={"Origin": "https://any.example"}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] in ("*", "https://any.example")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("", 403),
        ("localhost", 200),
        ("localhost:1", 200),
        ("a.localhost", 200),
        ("127.0.0.1", 200),
        ("127.1.2.3:80", 200),
        ("[::1]:80", 200),
    ],
)
async def test_a_service_on_loopback_has_no_other_names(
    start: Start, host: str, status: int
) -> None:
    client = await start()
    async with client.get("/api/jobs", headers={"Host": host}) as response:
        assert response.status == status, await response.text()


async def test_a_broken_host_header_is_refused(start: Start) -> None:
    client = await start()
    for host in ("[::1", "[", "a]b", "[x]"):
        async with client.get("/api/jobs", headers={"Host": host}) as response:
            assert response.status in (400, 403), host

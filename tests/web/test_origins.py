"""Which origins may use the service, and under which host names it answers."""

from __future__ import annotations

import pytest

from tests.conftest import Start
from tests.web import SLEEPER, job_of, problem, python
from tests.web.test_access import TOKENS


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
        # What pages, polyfills of EventSource and fetch-based clients send.
        for name in (
            *("accept", "authorization", "cache-control", "content-type", "idempotency-key"),
            *("last-event-id", "prefer"),
        ):
            assert name in allowed.split(", ")
    job = python("print(1)")
    async with client.post("/api/execute", json=job, headers={"Origin": origin}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == origin
        exposed = response.headers["Access-Control-Expose-Headers"].lower().split(", ")
        assert {"location", "x-job-id", "retry-after", "idempotency-replayed"} <= {*exposed}
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


@pytest.mark.parametrize("tokens", [True, False])
async def test_a_page_may_ask_first_and_sees_why_it_is_refused(
    start: Start, *, tokens: bool
) -> None:
    """Without tokens a service on loopback refuses other names of its host before any handler."""
    origin = "https://app.example"
    auth = {"auth": TOKENS} if tokens else {}
    client = await start(server={"allowed_origins": [origin]}, **auth)
    page = {"Origin": origin, "Host": "other.example"}
    asking = {**page, "Access-Control-Request-Method": "POST"}
    async with client.options("/api/execute", headers=asking) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == origin
        assert response.headers["Vary"] == "Origin"
    async with client.post("/api/execute", json={}, headers=page) as response:
        await problem(response, 401, "unauthorized")
        assert response.headers["Access-Control-Allow-Origin"] == origin


async def test_every_origin_may_where_that_is_configured(start: Start) -> None:
    client = await start(server={"allowed_origins": ["*"]})
    async with client.get("/api/jobs", headers={"Origin": "https://any.example"}) as response:
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] in ("*", "https://any.example")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 401),
        ("evil.example:8080", 401),
        ("localhost.evil.example", 401),
        ("127.0.0.1.evil.example", 401),
        ("10.0.0.1", 401),
        ("", 401),
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
            assert response.status in (400, 401), host

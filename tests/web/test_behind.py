"""Behind a proxy: the client's address, links, and the token for the metrics."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from streamer.web.callers.address import client_address
from tests.conftest import Start
from tests.support import submit
from tests.web import SLEEPER, python, until_state


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ([], "127.0.0.1", ["1.1.1.1"], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", [], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", ["1.1.1.1"], "1.1.1.1"),
        (["127.0.0.1"], "2.2.2.2", ["1.1.1.1"], "2.2.2.2"),
        # What the client sent itself comes before what the proxy adds.
        (["127.0.0.1"], "127.0.0.1", ["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
        (["127.0.0.1"], "127.0.0.1", ["9.9.9.9", "1.1.1.1"], "1.1.1.1"),
        (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", ["9.9.9.9, 1.1.1.1, 10.1.2.3"], "1.1.1.1"),
        # A Unix socket, as in an application behind a proxy of its host.
        ([], "", ["1.1.1.1"], "127.0.0.1"),
        (["127.0.0.1"], "", ["9.9.9.9, 1.1.1.1"], "1.1.1.1"),
        (["10.0.0.0/8"], "10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        (["127.0.0.1"], "127.0.0.1", ["1.1.1.1, unknown"], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", [""], "127.0.0.1"),
        (["127.0.0.1"], "127.0.0.1", ["<b>\u20ac"], "127.0.0.1"),
        (["::1", "127.0.0.0/8"], "::ffff:127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        (["::/0", "0.0.0.0/0"], "::1", [",".join(["1.1.1.1"] * 2000)], "1.1.1.1"),
    ],
)
def test_whose_address_a_request_has(
    trusted: list[str], peer: str, forwarded: list[str], address: str
) -> None:
    headers = CIMultiDict(("X-Forwarded-For", line) for line in forwarded)
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=peer)
    assert client_address(trusted)(request) == address


async def test_the_list_of_streams_has_the_address_behind_a_trusted_proxy(start: Start) -> None:
    digest = hashlib.sha256(b"t").hexdigest()
    client = await start(
        server={"trusted_proxies": ["127.0.0.1"]},
        auth={"tokens": [{"tenant": "a", "sha256": digest}]},
    )
    headers = {"Authorization": "Bearer t", "X-Forwarded-For": "192.0.2.7"}
    async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
        job_id = (await response.json())["jobId"]
    async with client.get(f"/api/stream/{job_id}", headers=headers) as stream:
        await stream.content.readline()
        async with client.get(f"/api/jobs/{job_id}/sessions", headers=headers) as response:
            text = await response.text()
    assert "192.0.2.7" in text
    assert "127.0.0.1" not in text


async def test_links_begin_with_the_public_address(start: Start) -> None:
    client = await start(server={"public_url": "https://example.org/code/"})
    async with client.post("/api/execute", json=python("print(1)")) as response:
        body = await response.json()
        job = f"https://example.org/code/api/jobs/{body['jobId']}"
        assert response.headers["Location"] == job
    for link in body["links"].values():
        assert link.startswith("https://example.org/code/api/")
    assert body["links"]["job"] == job


TOKENS: dict[str, Any] = {
    "auth": {"tokens": [{"tenant": "a", "sha256": hashlib.sha256(b"runs").hexdigest()}]},
    "metrics": {"token_sha256": hashlib.sha256(b"scrapes").hexdigest().upper()},
}


async def test_a_token_of_the_metrics_opens_them_and_nothing_else(start: Start) -> None:
    client = await start(**TOKENS)
    scraper = {"Authorization": "Bearer scrapes"}
    async with client.get("/metrics", headers=scraper) as response:
        assert response.status == 200
    for path in ("/api/jobs", "/api/queue", "/api/sandboxes", "/metrics/"):
        async with client.get(path, headers=scraper) as response:
            assert response.status in (401, 404), path
    async with client.post("/api/execute", json=python("1"), headers=scraper) as response:
        assert response.status == 401
    for wrong in ({}, {"Authorization": "Bearer scrape"}, {"Authorization": "Bearer "}):
        async with client.get("/metrics", headers=wrong) as response:
            assert response.status == 401
    async with client.get("/metrics", headers={"Authorization": "Bearer runs"}) as response:
        assert response.status == 403, "one tenant's token does not show what others do"


async def test_a_scraper_may_come_from_elsewhere_where_nobody_is_known(start: Start) -> None:
    client = await start(metrics=TOKENS["metrics"])
    elsewhere = {"Host": "example.org"}
    async with client.get("/metrics", headers=elsewhere) as response:
        assert response.status == 401
    scraper = {**elsewhere, "Authorization": "Bearer scrapes"}
    async with client.get("/metrics", headers=scraper) as response:
        assert response.status == 200
    async with client.get("/api/jobs", headers=scraper) as response:
        assert response.status == 401


async def test_who_is_at_the_machine_needs_no_token_for_the_metrics(start: Start) -> None:
    client = await start(metrics=TOKENS["metrics"])
    await until_state(client, await submit(client, **python("1")), "complete")
    async with client.get("/metrics") as response:
        assert response.status == 200

"""What the service reports about policies and enforced limits, and the page's headers."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestServer

import streamer
from streamer.errors import ConfigError
from tests.conftest import Start

HELLO = {"language": "python", "code": "print('hello')"}


async def test_a_requirement_that_is_not_met_stops_the_start() -> None:
    config = {"sandbox": {"cgroup": "off", "require": ["memory:cgroup"]}}
    server = TestServer(streamer.create_app(config))
    with pytest.raises(ConfigError, match=r"memory_bytes here by polling.*Delegate=yes"):
        await server.start_server()
    await server.close()


@pytest.mark.parametrize("requirement", ["memory", "memory:", "brains:cgroup"])
async def test_a_requirement_that_says_nothing_is_refused(requirement: str) -> None:
    server = TestServer(streamer.create_app({"sandbox": {"require": [requirement]}}))
    with pytest.raises(ConfigError, match="LIMIT:LEVEL"):
        await server.start_server()
    await server.close()


async def test_presets_lie_under_what_is_set() -> None:
    config = streamer.Config.from_mapping(
        {"sandbox": {"preset": "strict"}, "limits": {"default": {"wall_time_s": 3}}}
    )
    assert config.limits.default.wall_time_s == 3
    assert config.limits.default.processes == 32
    assert config.sandbox.require == ("memory:cgroup", "processes:cgroup")
    assert config.sandbox.seccomp == "strict"
    assert streamer.Config.from_mapping({"sandbox": {"preset": "dev"}}).sandbox.allow_command
    with pytest.raises(ConfigError, match=r"sandbox\.preset"):
        streamer.Config.from_mapping({"sandbox": {"preset": "lax"}})


async def test_the_record_names_the_policy(start: Start) -> None:
    client = await start()
    digests = []
    for limits in ({}, {}, {"wallTimeS": 5}):
        headers = {"Prefer": "wait=20"}
        job = {**HELLO, "limits": limits}
        async with client.post("/api/execute", json=job, headers=headers) as response:
            policy = (await response.json())["policy"]
        assert (policy["backend"], policy["preset"]) == ("bwrap", "balanced")
        digests.append(policy["sha256"])
    assert digests[0] == digests[1] != digests[2]


async def test_the_sandboxes_say_how_limits_are_enforced(start: Start) -> None:
    client = await start(sandbox={"cgroup": "off"})
    async with client.get("/api/sandboxes") as response:
        listed = {box["name"]: box for box in (await response.json())["sandboxes"]}
    assert listed["bwrap"]["enforces"] == {
        "wallTimeS": "timer",
        "cpuTimeS": "polling",
        "memoryBytes": "polling",
        "processes": "rlimit",
        "openFiles": "rlimit",
        "fileBytes": "rlimit",
        "diskBytes": "tmpfs",
        "outputBytes": "counter",
        "stackBytes": "rlimit",
        "tmpBytes": "tmpfs",
        "seccomp": "filter",
    }
    assert listed["plain"]["enforces"]["diskBytes"] == "polling"
    assert listed["plain"]["enforces"]["tmpBytes"] == "none"
    assert listed["plain"]["enforces"]["seccomp"] == "guard"


async def test_the_page_has_its_policy_and_its_parts(start: Start) -> None:
    client = await start()
    async with client.get("/") as response:
        text = await response.text()
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "<script>" not in text
        etag = response.headers["ETag"]
    async with client.get("/", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
    async with client.get("/static/playground/playground.js") as response:
        assert response.content_type == "text/javascript"


async def test_the_page_is_sent_compressed_and_kept_apart_from_its_plain_form(start: Start) -> None:
    client = await start()
    told = {}
    for encoding in ("gzip", "identity", "gzip;q=0"):
        headers = {"Accept-Encoding": encoding}
        async with client.get("/static/playground/ansi.js", headers=headers) as response:
            assert response.headers["Vary"] == "Accept-Encoding"
            told[encoding] = response.headers.get("Content-Encoding"), response.headers["ETag"]
            assert "AnsiParser" in await response.text()
        headers["If-None-Match"] = told[encoding][1]
        async with client.get("/static/playground/ansi.js", headers=headers) as response:
            assert response.status == 304
    assert told["identity"] == told["gzip;q=0"]
    assert told["gzip"][0] == "gzip"
    assert told["gzip"][1] != told["identity"][1]


async def test_only_pages_that_the_configuration_names_may_frame_the_playground(
    start: Start,
) -> None:
    policies = []
    for ancestors in ([], ["self", "https://moodle.example.org"]):
        client = await start(server={"frame_ancestors": ancestors})
        # As a browser fetches what a page of another site frames.
        site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        async with client.get("/", headers=site) as response:
            assert response.status == 200
            policies.append(response.headers["Content-Security-Policy"])
        async with client.get("/docs") as response:
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    closed, opened = policies
    assert "; frame-ancestors 'none';" in closed
    assert opened == closed.replace(
        "frame-ancestors 'none'", "frame-ancestors 'self' https://moodle.example.org"
    )


async def test_a_language_whose_tool_is_missing_is_listed_with_its_reason(start: Start) -> None:
    run = {"entry": "main.kl", "run": ["no-such-tool", "{entry}"]}
    client = await start(runtimes={"klingon": run})
    async with client.get("/api/runtimes") as response:
        listed = {entry["name"]: entry for entry in (await response.json())["runtimes"]}
    assert listed["python"]["available"]
    assert not listed["klingon"]["available"]
    assert "no-such-tool" in listed["klingon"]["reason"]
    job = {"language": "klingon", "code": "Qapla'"}
    async with client.post("/api/execute", json=job) as response:
        problem = await response.json()
    assert (response.status, problem["code"], problem["path"]) == (
        400,
        "unknown_language",
        "$.language",
    )
    assert "no-such-tool" in problem["detail"]

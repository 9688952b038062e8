"""A grant opens one job for reading until it expires, and nothing else."""

from __future__ import annotations

import logging
import re
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import streamer
from streamer.web.app import ACCESS
from streamer.web.callers.access import CLAIM
from streamer.web.callers.grants import Grant, Grants
from streamer.web.operations.operation import Operation
from streamer.web.operations.table import OPERATIONS
from tests.conftest import Start
from tests.support import AnyClient, follow, received, submit, text
from tests.web import SLEEPER, job_of, problem, python
from tests.web.test_access import ALICE, BOB, OPEN, TOKENS, Answering

FOREIGN = {"Host": "www.example.org", "X-Forwarded-For": "203.0.113.7"}
"""Headers of a request that came from another machine, through a proxy."""

OPENED = {"showJob", "followJob", "readOutput", "readRecording", "listFiles", "readFile"}


@pytest.fixture
async def client(start: Start) -> AnyClient:
    return await start(auth=TOKENS)


async def granted(
    client: AnyClient, job_id: str, headers: dict[str, str] = ALICE, **asked: Any
) -> dict[str, Any]:
    """Return the document of a new grant for a job."""
    path = f"/api/jobs/{job_id}/grants"
    async with client.post(path, json=asked, headers=headers) as response:
        document: dict[str, Any] = await response.json()
        assert response.status == 201, document
        assert response.headers["Cache-Control"] == "no-store"
    return document


async def ended(client: AnyClient, headers: dict[str, str] = ALICE, **job: Any) -> str:
    """Return a job that has written ``mine`` and left a file, and is over."""
    left = python("open('a b.txt', 'w').write('left'); print('mine')", artifacts=["*.txt"], **job)
    sent = {**headers, "Prefer": "wait=60"}
    async with client.post("/api/execute", json=left, headers=sent) as response:
        document = await response.json()
        assert (response.status, document["result"]["exitCode"]) == (200, 0), document
    return str(document["jobId"])


def path_of(operation: Operation, job_id: str) -> str:
    """Return an address of an operation, about a job where it is about one."""
    path = operation.path.replace("{job_id}", job_id).replace("{stream}", "stdout")
    path = path.replace("{path}", "a%20b.txt")
    return re.sub(r"{\w+}", "a" * 26, path)


async def test_its_links_open_the_job_to_anybody(client: AnyClient) -> None:
    job_id = await ended(client)
    grant = await granted(client, job_id)
    links = grant["links"]
    assert all(link.endswith(f"?grant={grant['grant']}") for link in links.values())
    async with client.get(links["job"], headers=FOREIGN) as response:
        assert (await response.json())["result"]["stdout"] == "mine\n"
        assert response.headers["Referrer-Policy"] == "no-referrer"
    async with client.head(links["job"]) as response:
        assert response.status == 200
    async with client.get(links["stream"], headers=FOREIGN) as response:
        assert response.headers["Referrer-Policy"] == "no-referrer"
        events = [event async for event in received(response)]
    assert text(events) == "mine\n"
    last = {"Last-Event-ID": str(events[-2].id)}
    async with client.get(links["stream"], headers=last) as response:
        assert [event async for event in received(response)] == events[-1:]
    async with client.get(links["stream"], params={"lastEventId": events[-1].id}) as response:
        assert response.status == 204
    for name in ("output", "cast"):
        async with client.get(links[name]) as response:
            assert "mine" in await response.text()
    async with client.get(links["files"]) as response:
        (file,) = (await response.json())["files"]
    async with client.get(file["url"]) as response:
        assert await response.read() == b"left"


async def test_of_all_operations_it_opens_six_and_those_for_its_job_only(
    client: AnyClient,
) -> None:
    mine, other = await ended(client), await ended(client)
    grant = (await granted(client, mine))["grant"]
    narrow = (await granted(client, mine, files=False))["grant"]
    found: dict[str, set[str]] = {"mine": set(), "narrow": set(), "other": set()}
    for operation in OPERATIONS:
        if operation.path in OPEN:
            continue
        asked = (("mine", mine, grant), ("narrow", mine, narrow), ("other", other, grant))
        for whose, job_id, text_ in asked:
            query = {"grant": text_, **({"job": job_id} if operation.id == "followJobs" else {})}
            path = path_of(operation, job_id)
            body = None if operation.body is None else b"{}"
            async with client.request(operation.method, path, params=query, data=body) as response:
                if response.status < 400:
                    found[whose].add(operation.id)
                else:
                    await problem(response, 401, "unauthorized")
    assert found == {"mine": OPENED, "narrow": OPENED - {"listFiles", "readFile"}, "other": set()}


async def test_what_is_not_exactly_a_grant_opens_nothing(client: AnyClient) -> None:
    job_id = await ended(client)
    good = (await granted(client, job_id, files=False))["grant"]
    version, expires, kind, signature = good.split(".")
    for bad in (
        "",
        good[:-1],
        f"{good}A",
        f"{good}=",
        f" {good}",
        f"{version}.{int(expires) + 1}.{kind}.{signature}",
        f"{version}.0{expires}.{kind}.{signature}",
        f"{version}.{expires}.all.{signature}",
        f"g2.{expires}.{kind}.{signature}",
        f"{expires}.{kind}.{signature}",
        f"{version}.{expires}.{kind}.{'A' * 43}",
        f"{version}.{expires}.{kind}.{signature.swapcase()}",
        f"{version}.٣.{kind}.{signature}",
        "g1." + "9" * 5_000,
        "\ud800",
    ):
        query = {"grant": bad.encode("utf-8", "surrogatepass").decode("latin-1")}
        # Whoever sends it: a link that has expired must not seem to work for its owner.
        for headers in ({}, ALICE):
            async with client.get(f"/api/jobs/{job_id}", params=query, headers=headers) as response:
                await problem(response, 401, "unauthorized")
    async with client.get(f"/api/jobs/{job_id}?grant={good}&grant={good}") as response:
        await problem(response, 401, "unauthorized")
    async with client.get(f"/api/jobs/{job_id}?grant={good}") as response:
        assert response.status == 200


async def test_no_character_of_a_grant_can_be_another() -> None:
    now = 1_700_000_000.0
    grants = Grants(secret(b"s" * 32), clock=lambda: now)
    good = await grants.signed(grants.grant("job1", 60, files=True))
    assert await grants.opened(good, "job1") == Grant("job1", 1_700_000_060_000, files=True)
    assert await grants.opened(good, "job2") is None
    for at, character in enumerate(good):
        # The last one has two bits that say nothing, and yet there is one way to write them.
        for other in {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."} - {
            character
        }:
            assert await grants.opened(good[:at] + other + good[at + 1 :], "job1") is None
    assert await Grants(secret(b"t" * 32), clock=lambda: now).opened(good, "job1") is None


def secret(value: bytes) -> Any:
    async def ask() -> bytes:
        return value

    return ask


async def test_it_expires_at_its_millisecond() -> None:
    now = [1_700_000_000.0004]
    grants = Grants(secret(b"s" * 32), clock=lambda: now[0])
    good = await grants.signed(grants.grant("job1", 60, files=True))
    for at, opens in ((0.0, True), (59.999, True), (60.0, False), (60.001, False), (1e6, False)):
        now[0] = 1_700_000_000 + at
        assert (await grants.opened(good, "job1") is not None) is opens, at


async def test_bad_grants_ask_for_the_secret_once_in_a_while() -> None:
    asked = []

    async def ask() -> bytes:
        asked.append(1)
        return b"s" * 32

    grants = Grants(ask)
    for _ in range(100):
        assert await grants.opened(f"g1.99999999999999.all.{'A' * 43}", "job1") is None
        assert await grants.opened("nonsense", "job1") is None
    assert len(asked) == 1


async def test_with_another_secret_all_are_void_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = [b"s" * 32]

    async def ask() -> bytes:
        return kept[0]

    making, opening = Grants(ask), Grants(ask)
    good = await making.signed(making.grant("job1", 60, files=True))
    assert await opening.opened(good, "job1") is not None
    kept[0] = b"t" * 32
    monkeypatch.setattr("streamer.web.callers.grants.SECRET_S", 0.0)
    assert await opening.opened(good, "job1") is None
    again = await making.signed(making.grant("job1", 60, files=True))
    assert await opening.opened(again, "job1") is not None


async def test_a_stream_ends_when_its_grant_expires(client: AnyClient) -> None:
    job_id = await job_of(client, ALICE)
    grant = await granted(client, job_id, expiresS=60)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", grant["expiresAt"])
    grants = client.app[ACCESS].grants
    expires_s = int(grant["grant"].split(".")[1]) / 1000
    grants.clock = lambda: expires_s - 0.3  # so much is left
    with pytest.raises(aiohttp.ClientPayloadError):
        async with client.get(grant["links"]["stream"]) as response:
            assert response.status == 200
            async for _ in received(response):
                pass
    grants.clock = lambda: expires_s
    async with client.get(grant["links"]["stream"]) as response:
        document = await problem(response, 401, "unauthorized")
        assert "WWW-Authenticate" not in response.headers
    assert document["detail"] == "the grant has expired, or does not open this"
    async with client.get(f"/api/jobs/{job_id}", headers=ALICE) as response:
        assert (await response.json())["status"] in ("preparing", "running")


async def test_a_job_that_is_removed_is_opened_by_no_grant(client: AnyClient) -> None:
    job_id = await ended(client)
    grant = await granted(client, job_id)
    async with client.delete(f"/api/jobs/{job_id}?purge=1", headers=ALICE) as response:
        assert response.status == 204
    for link in grant["links"].values():
        async with client.get(link) as response:
            await problem(response, 404, "not_found")


async def test_it_is_for_the_owner_to_make(client: AnyClient) -> None:
    job_id = await ended(client)
    grant = (await granted(client, job_id))["grant"]
    path = f"/api/jobs/{job_id}/grants"
    async with client.post(path, headers=BOB) as response:
        await problem(response, 404, "not_found")
    async with client.post(f"{path}?grant={grant}") as response:
        await problem(response, 401, "unauthorized")
    async with client.post(path, headers=ALICE) as response:  # without a body
        assert response.status == 201


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"expiresS": 0}', "$.expiresS"),
        ('{"expiresS": 0.5}', "$.expiresS"),
        ('{"expiresS": 3601}', "$.expiresS"),
        ('{"expiresS": 1e400}', "$.expiresS"),
        ('{"expiresS": "60"}', "$.expiresS"),
        ('{"files": 1}', "$.files"),
        ('{"job": "x"}', "$.job"),
    ],
)
async def test_what_is_asked_for_is_checked(start: Start, body: str, path: str) -> None:
    client = await start(auth={**TOKENS, "grant_max_s": 3600})
    job_id = await job_of(client, ALICE)
    async with client.post(f"/api/jobs/{job_id}/grants", data=body, headers=ALICE) as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == path
    assert await granted(client, job_id, expiresS=3600)


async def test_an_operator_may_switch_them_off(start: Start) -> None:
    client = await start(auth={**TOKENS, "grant_max_s": 0})
    job_id = await job_of(client, ALICE)
    async with client.post(f"/api/jobs/{job_id}/grants", headers=ALICE) as response:
        await problem(response, 403, "forbidden")


async def test_a_hook_is_asked_who_may_make_one_and_not_who_may_use_it(start: Start) -> None:
    asked: list[str] = []

    def answer(action: str, _: object) -> object:
        asked.append(action)
        return allowed[0] if action == "grant" else "ann"

    allowed: list[object] = [False]
    client = await start(plugins=(Answering(answer),))
    job_id = await ended(client, {})
    async with client.post(f"/api/jobs/{job_id}/grants") as response:
        await problem(response, 403, "forbidden")
    allowed[0] = "ann"
    grant = await granted(client, job_id, {})
    asked.clear()
    async with client.get(grant["links"]["job"]) as response:
        assert response.status == 200
    assert asked == []


async def test_without_tokens_it_opens_its_job_from_other_machines_too(start: Start) -> None:
    client = await start()
    job_id = await submit(client, **python("print('mine')"))
    await follow(client, job_id)
    grant = await granted(client, job_id, {})
    async with client.get(f"/api/jobs/{job_id}", headers=FOREIGN) as response:
        await problem(response, 401, "unauthorized")
    async with client.get(grant["links"]["job"], headers=FOREIGN) as response:
        assert response.status == 200
    async with client.get(f"/api/jobs?grant={grant['grant']}", headers=FOREIGN) as response:
        await problem(response, 401, "unauthorized")


async def test_a_page_of_another_site_may_not_use_it(start: Start) -> None:
    for origins, status in (((), 403), (("https://example.org",), 200)):
        client = await start(auth=TOKENS, server={"allowed_origins": origins})
        job_id = await ended(client)
        link = (await granted(client, job_id))["links"]["job"]
        async with client.get(link, headers={"Origin": "https://example.org"}) as response:
            assert response.status == status
        embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        async with client.get(link, headers=embedded) as response:
            await problem(response, 403, "forbidden")
        followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        async with client.get(link, headers=followed) as response:
            assert response.status == 200


async def test_its_readers_count_for_its_owner(start: Start) -> None:
    client = await start(auth=TOKENS, streams={"max_readers_per_client": 1})
    jobs = {name: await job_of(client, who) for name, who in (("a", ALICE), ("b", BOB))}
    links = {
        "a": (await granted(client, jobs["a"]))["links"]["stream"],
        "b": (await granted(client, jobs["b"], BOB))["links"]["stream"],
    }
    async with client.get(links["a"]) as first:
        assert first.status == 200
        async with client.get(links["a"]) as second:
            await problem(second, 429, "rate_limited")
        async with client.get(links["b"]) as other:
            assert other.status == 200


async def test_a_request_with_it_takes_a_connection_of_its_owner() -> None:
    claimed: list[str] = []

    @web.middleware
    async def claim(request: web.Request, handler: Any) -> web.StreamResponse:
        request[CLAIM] = claimed.append
        return await handler(request)  # type: ignore[no-any-return]

    config = {"sandbox": {"backend": "bwrap"}, "server": {"drain_s": 0}, "auth": TOKENS}
    app = streamer.create_app(config, middlewares=[claim])
    async with aiohttp.test_utils.TestClient(aiohttp.test_utils.TestServer(app)) as client:
        job_id = await ended(client)
        links = (await granted(client, job_id))["links"]
        for link in links.values():
            claimed.clear()
            async with client.get(link) as response:
                assert response.status == 200
                await response.read()
            assert claimed == ["alice"]


async def test_it_is_in_no_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @web.middleware
    async def fail(request: web.Request, handler: Any) -> web.StreamResponse:
        if "X-Fail" in request.headers:
            raise ZeroDivisionError(request.path)
        return await handler(request)  # type: ignore[no-any-return]

    config = {"sandbox": {"backend": "bwrap", "allow_command": True}, "server": {"drain_s": 0}}
    app = streamer.create_app({**config, "auth": TOKENS}, middlewares=[fail])
    async with aiohttp.test_utils.TestClient(aiohttp.test_utils.TestServer(app)) as client:
        job_id = await job_of(client, ALICE, **SLEEPER)
        grant = await granted(client, job_id)
        with caplog.at_level(logging.DEBUG):
            for headers in ({}, {"X-Fail": "1"}):
                async with client.get(grant["links"]["job"], headers=headers) as response:
                    assert response.status == (500 if headers else 200)
            async with client.get(f"/api/jobs?nonsense=1&grant={grant['grant']}") as response:
                assert response.status == 400
                assert "g1." not in await response.text()
    assert "failed" in caplog.text
    assert "g1." not in caplog.text


async def test_the_client_makes_and_uses_one(client: AnyClient) -> None:
    job_id = await ended(client)
    url = str(client.make_url("/"))
    async with streamer.Client(url, token="alice-token") as owner:
        grant = await owner.grant(job_id, expires_s=60)
        narrow = await owner.grant(job_id, files=False)
    assert "files" not in narrow["links"]
    async with streamer.Client(url, grant=grant["grant"]) as reader:
        assert [event.kind async for event in reader.events(job_id)][-1] == "complete"
        assert (await reader.job(job_id))["result"]["stdout"] == "mine\n"
        assert b"".join([part async for part in reader.read_file(job_id, "a b.txt")]) == b"left"
        with pytest.raises(streamer.ServiceProblem) as refused:
            await reader.cancel(job_id)
    assert refused.value.status == 401

"""How often a tenant, or an address, may ask; and how many wrong tokens may come from one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from streamer.config.schema import Config
from streamer.config.tokens import new_token
from streamer.engine.memory.rates import MemoryRates
from streamer.errors import ConfigError, EngineUnavailable, RateLimited
from streamer.web.rates import FailedLogins, RequestRates
from tests.conftest import Start
from tests.jobs.archives import zip_of
from tests.support import AnyClient
from tests.web import SLEEPER, problem

ALICE = {"Authorization": "Bearer alice-token"}
BOB = {"Authorization": "Bearer bob-token"}


def auth(**more: Any) -> dict[str, Any]:
    tokens = [
        {"tenant": name, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest()}
        for name in ("alice", "bob")
    ]
    return {"tokens": tokens, **more}


async def submit(client: AnyClient, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
    async with client.post("/api/execute", json=SLEEPER, headers=headers) as response:
        if response.status == 429:
            await problem(response, 429, "rate_limited")
        return response.status, response.headers


async def test_a_tenant_has_its_rate_and_others_theirs(start: Start) -> None:
    client = await start(auth=auth(rate="3/minute"))
    told = []
    for _ in range(4):
        status, headers = await submit(client, ALICE)
        assert headers["RateLimit-Policy"] == '"tenant";q=3;w=60'
        told.append((status, headers["RateLimit"].partition(";t=")[0]))
    assert told == [(202, f'"tenant";r={left}') for left in (2, 1, 0)] + [(429, '"tenant";r=0')]
    assert 1 <= int(headers["Retry-After"]) <= 60
    assert headers["RateLimit"].endswith(f"t={headers['Retry-After']}")
    assert (await submit(client, BOB))[0] == 202
    async with client.get("/api/jobs", headers=ALICE) as response:
        assert response.status == 200, "reading does not count"
        assert "RateLimit" not in response.headers
        assert len((await response.json())["jobs"]) == 3


async def test_a_tenant_may_have_a_rate_of_its_own(start: Start) -> None:
    tenants = {"alice": {"rate": "1/hour"}}
    client = await start(auth=auth(rate="2/minute", tenants=tenants))
    assert [(await submit(client, ALICE))[0] for _ in range(2)] == [202, 429]
    assert [(await submit(client, BOB))[0] for _ in range(3)] == [202, 202, 429]
    async with client.post("/api/execute", json=SLEEPER, headers=ALICE) as response:
        assert "rate in auth.tenants" in (await problem(response, 429, "rate_limited"))["detail"]


async def test_sessions_and_uploads_count_and_each_job_of_a_batch(start: Start) -> None:
    client = await start(auth=auth(rate="5/minute"))
    async with client.post("/api/execute/batch", json=[SLEEPER] * 2, headers=ALICE) as response:
        assert response.status == 200
    async with client.post("/api/projects", data=zip_of([("a", b"")]), headers=ALICE) as response:
        assert response.status == 201
    async with client.post("/api/sessions", json={}, headers=ALICE) as response:
        assert response.status == 201
        session = (await response.json())["links"]["session"]
    async with client.post("/api/execute/batch", json=[SLEEPER] * 3, headers=ALICE) as response:
        answers = await response.json()
        assert [answer.get("code", "accepted") for answer in answers] == [
            "accepted",
            *["rate_limited"] * 2,
        ]
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    for method, path, body in (
        ("POST", "/api/projects", zip_of([("a", b"")])),
        ("POST", "/api/sessions", b"{}"),
        ("PUT", f"{session}/files/a.txt", b"x"),
    ):
        async with client.request(method, path, data=body, headers=ALICE) as response:
            await problem(response, 429, "rate_limited")


async def test_an_address_has_its_rate_whoever_asks(start: Start) -> None:
    server = {"rate_per_address": "2/minute", "trusted_proxies": ["127.0.0.1"]}
    client = await start(auth=auth(), server=server)

    async def statuses(*addresses: str) -> list[int]:
        return [
            (await submit(client, {**who, "X-Forwarded-For": address}))[0]
            for address in addresses
            for who in (ALICE, BOB, ALICE)
        ]

    assert await statuses("192.0.2.1", "192.0.2.2") == [202, 202, 429] * 2
    # What a client writes itself stands before what the proxy adds.
    assert await statuses("192.0.2.3, 192.0.2.1", "192.0.2.9,192.0.2.2") == [429] * 6
    # A customer of a provider has a network of 2**64 addresses.
    assert await statuses("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1") == [
        *[202, 202, 429, 429, 429, 429],
        *[202, 202, 429],
    ]


async def test_who_forges_an_address_has_the_rate_of_its_own(start: Start) -> None:
    client = await start(auth=auth(), server={"rate_per_address": "2/minute"})
    forged = [{**ALICE, "X-Forwarded-For": f"192.0.2.{number}"} for number in range(3)]
    assert [(await submit(client, headers))[0] for headers in forged] == [202, 202, 429]


async def test_what_is_refused_is_taken_after_exactly_the_time_that_is_told() -> None:
    now = [1000.0]
    config = Config.from_mapping(
        {"auth": {"rate": "3/minute"}, "server": {"rate_per_address": "6 per 90 seconds"}}
    )
    rates = RequestRates(config, MemoryRates(lambda: now[0]), lambda _: "192.0.2.1")

    async def take(tenant: str) -> float:
        """Return after which time to ask again, or 0."""
        try:
            await rates.take(make_mocked_request("POST", "/"), tenant)
        except RateLimited as refused:
            return refused.retry_after_s
        return 0

    for pause in (0.25, 10, 10.5):
        assert await take("alice") == 0
        now[0] += pause
    # The first of the three was 20.75 s ago.
    assert await take("alice") == 40
    now[0] += 39
    assert await take("alice") == 1
    now[0] += 1
    assert await take("alice") == 0
    # Six in 90 s of the address, the first 60.75 s ago; what its tenant may not counts for it.
    assert await take("bob") == 30
    now[0] += 30
    assert await take("bob") == 0


GUESS = {"Authorization": "Bearer a-guess"}


async def status_of(client: AnyClient, headers: Mapping[str, str]) -> int:
    async with client.get("/api/jobs", headers=headers) as response:
        if response.status == 429:
            assert int(response.headers["Retry-After"]) >= 1
            await problem(response, 429, "rate_limited")
        return response.status


async def test_wrong_tokens_lock_an_address_out_but_for_those_that_nobody_can_guess(
    start: Start,
) -> None:
    token, stored = new_token("carol")
    tokens = [*auth()["tokens"], {"tenant": "carol", "sha256": stored.sha256}]
    client = await start(
        auth={"tokens": tokens, "failed_logins": "3/hour"},
        server={"trusted_proxies": ["127.0.0.1"]},
    )
    here, elsewhere = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    for _ in range(5):
        assert await status_of(client, ALICE | here) == 200, "a right one is none"
        assert await status_of(client, here) == 401, "without one nothing is guessed"
    guessed = [await status_of(client, GUESS | here) for _ in range(5)]
    assert guessed == [401, 401, 401, 429, 429]
    assert await status_of(client, ALICE | here) == 429
    async with client.get("/api/jobs?access_token=alice-token", headers=here) as response:
        assert response.status == 429
    assert await status_of(client, {"Authorization": f"Bearer {token}"} | here) == 200
    unknown, _ = new_token("carol")
    assert await status_of(client, {"Authorization": f"Bearer {unknown}"} | here) == 401
    assert await status_of(client, ALICE | elsewhere) == 200


async def test_who_goes_on_with_a_revoked_token_locks_nobody_out(start: Start) -> None:
    metrics = {"token_sha256": hashlib.sha256(b"scrapes").hexdigest()}
    client = await start(auth=auth(failed_logins="2/hour"), metrics=metrics)
    token, _ = new_token("carol")
    revoked = {"Authorization": f"Bearer {token}"}
    assert [await status_of(client, revoked) for _ in range(4)] == [401] * 4
    for _ in range(4):
        async with client.get("/metrics", headers=revoked) as response:
            assert response.status == 401
    assert await status_of(client, ALICE) == 200


async def test_the_token_of_the_metrics_cannot_be_guessed_either(start: Start) -> None:
    metrics = {"token_sha256": hashlib.sha256(b"scrapes").hexdigest()}
    scraper = {"Authorization": "Bearer scrapes"}
    client = await start(auth={"failed_logins": "2/hour"}, metrics=metrics)
    statuses = []
    for headers in (scraper, GUESS, GUESS, GUESS, scraper):
        stranger = {**headers, "Host": "example.org"}
        async with client.get("/metrics", headers=stranger) as response:
            statuses.append(response.status)
    assert statuses == [200, 401, 401, 429, 429]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_what_is_open_to_everybody_is_no_place_to_guess_tokens(
    start: Start, path: str
) -> None:
    client = await start(auth=auth(failed_logins="2/hour"))
    statuses = []
    for headers in (ALICE, {}, GUESS, ALICE, GUESS, GUESS, {}):
        async with client.get(path, headers=headers) as response:
            statuses.append(response.status)
    assert statuses == [200, 200, 401, 200, 401, 429, 200]
    assert await status_of(client, ALICE) == 429


class Away(MemoryRates):
    """Those of an engine that does not answer."""

    async def take(self, kind: str, key: str, most: int, window_s: int) -> bool:
        raise EngineUnavailable("it does not answer", retry_after_s=1.0)


async def test_wrong_tokens_are_bounded_while_the_engine_does_not_answer() -> None:
    config = Config.from_mapping({"auth": {"failed_logins": "20/minute"}})
    address = ["192.0.2.1"]
    logins = FailedLogins(config, Away(), lambda _: address[0])
    request = make_mocked_request("GET", "/")
    with pytest.raises(EngineUnavailable):
        await logins.count(request)
    with pytest.raises(RateLimited) as refused:
        logins.check(request)
    assert refused.value.retry_after_s == 3, "so there are 20 in a minute"
    address[0] = "192.0.2.2"
    logins.check(request)


async def test_what_is_known_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.web.rates.MOST_LOCKED", 10)
    config = Config.from_mapping({"auth": {"failed_logins": "1/hour"}})
    address = [""]
    logins = FailedLogins(config, MemoryRates(most_keys=20), lambda _: address[0])
    request = make_mocked_request("GET", "/")
    for number in range(100):
        address[0] = f"192.0.2.{number}"
        await logins.count(request)
        with pytest.raises(RateLimited):
            await logins.count(request)
        with pytest.raises(RateLimited):
            logins.check(request)
    assert len(logins._locked) == 10


@pytest.mark.parametrize(
    "text",
    [
        "60",
        "60/fortnight",
        "0/minute",
        "-1/minute",
        "10001/minute",
        "1/minute;2/hour",
        "1/2 years",
        "x",
    ],
)
@pytest.mark.parametrize(
    ("section", "key"),
    [("auth", "rate"), ("auth", "failed_logins"), ("server", "rate_per_address")],
)
def test_what_is_no_rate_stops_the_start(text: str, section: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.{key}.*60/minute"):
        Config.from_mapping({section: {key: text}})
    with pytest.raises(ConfigError, match=r"auth\.tenants\.a b\.rate"):
        Config.from_mapping({"auth": {"tenants": {"a b": {"rate": text}}}})


def test_wrong_tokens_always_have_a_bound() -> None:
    with pytest.raises(ConfigError, match=r"auth\.failed_logins"):
        Config.from_mapping({"auth": {"failed_logins": ""}})

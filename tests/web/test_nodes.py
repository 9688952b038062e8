"""Two services with one engine: each answers for the jobs of the other like for its own."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from tests.conftest import Start
from tests.engine.remote.wire import Wire
from tests.redisserver import RedisServer
from tests.support import AnyClient, Received, follow, parts_of, received, submit, text, verdict
from tests.web import SLEEPER, problem, python, until_output, until_state
from tests.web.conftest import InRedis, Remote

Pair = tuple[AnyClient, AnyClient]
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"

pytestmark = pytest.mark.memory_engine("its engines are its own")


@pytest.fixture(params=["remote", "redis"])
def shared(request: pytest.FixtureRequest) -> object:
    """Return a plugin whose engine two services share."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return InRedis(server.url())
    seed = random.randrange(10**6)
    print(f"the connections' seed: {seed}")  # noqa: T201 - shown with a failure
    return Remote(seed, nodes=2)


@pytest.fixture
async def pair(start: Start, shared: object) -> Pair:
    return await start(plugins=(shared,)), await start(plugins=(shared,))


async def seen_until(client: AnyClient, job_id: str, count: int) -> list[Received]:
    """Read this many events of a job, then disconnect."""
    seen: list[Received] = []
    async with client.get(f"/api/stream/{job_id}") as response:
        async for event in received(response):
            seen.append(event)
            if len(seen) == count:
                break
        response.close()
    return seen


async def test_a_reader_goes_on_at_the_other_after_every_event(pair: Pair) -> None:
    one, other = pair
    job_id = await submit(one, **python("\n".join(f"print({n}, flush=True)" for n in range(6))))
    whole = await follow(one, job_id)
    assert [event.id for event in whole] == list(range(1, len(whole) + 1))
    assert await follow(other, job_id) == whole
    for event in whole[:-1]:
        assert await follow(other, job_id, after=event.id) == whole[event.id :]
    headers = {"Last-Event-ID": str(len(whole))}
    async with other.get(f"/api/stream/{job_id}", headers=headers) as response:
        assert response.status == 204
    assert await follow(other, job_id, after=10**6) == whole, "an id that there never was"


async def test_a_live_job_is_followed_at_both(pair: Pair) -> None:
    one, other = pair
    job_id = await submit(one, **python(ECHO, interactive=True))
    async with other.post(f"/api/jobs/{job_id}/stdin", data=b"first\n") as answer:
        assert answer.status == 202
    async with one.get(f"/api/stream/{job_id}") as response:
        seen: list[Received] = []
        async for event in received(response):
            seen.append(event)
            if event.kind == "output":
                break
        response.close()
    # At the other service a reader resumes in the middle before another begins at the start.
    headers = {"Last-Event-ID": str(seen[-1].id)}
    async with other.get(f"/api/stream/{job_id}", headers=headers) as response:
        async with other.get(f"/api/stream/{job_id}") as whole:
            await until_output(received(whole), "first\n")
            whole.close()
        async with one.post(f"/api/jobs/{job_id}/stdin?close=1", data=b"second\n") as answer:
            assert answer.status == 202
        seen += [event async for event in received(response)]
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert text(seen) == "first\nsecond\n"
    async with other.get(f"/api/jobs/{job_id}/output/stdout") as output:
        assert await output.text() == "first\nsecond\n"


async def test_several_jobs_in_one_stream_go_on_at_the_other(pair: Pair) -> None:
    one, other = pair
    jobs = [await submit(one, **python(f"print({n})\nprint({n})")) for n in range(2)]
    for job_id in jobs:
        await follow(one, job_id)
    query = "&".join(f"job={job_id}" for job_id in jobs)

    async def ids(client: AnyClient, after: str) -> list[str]:
        async with client.get(f"/api/stream?{query}", headers={"Last-Event-ID": after}) as stream:
            body = await stream.text()
        return [line[4:] for line in body.splitlines() if line.startswith("id: ")]

    whole = await ids(one, "0.0")
    half = whole[len(whole) // 2]
    rest = await ids(other, half)
    assert len(rest) == len(whole) - len(whole) // 2 - 1
    assert rest[-1] == whole[-1]


async def test_a_grant_of_one_opens_its_job_at_the_other(pair: Pair) -> None:
    one, other = pair
    job_id = await submit(one, **python("print('mine')"))
    await follow(one, job_id)
    for maker, opener in ((one, other), (other, one)):
        async with maker.post(f"/api/jobs/{job_id}/grants") as response:
            links = (await response.json())["links"]
        async with opener.get(links["output"], headers={"Host": "example.org"}) as response:
            assert await response.text() == "mine\n"


async def test_a_service_that_stops_sends_readers_of_jobs_that_go_on_to_the_other(
    start: Start, shared: object
) -> None:
    one, other = [await start(plugins=(shared,), queue={"concurrency": 1}) for _ in range(2)]
    jobs = [await submit(one, **SLEEPER) for _ in range(2)]
    for job_id in jobs:
        await until_state(other, job_id, "running")  # one at each service
    reading = [asyncio.create_task(follow(one, job_id)) for job_id in jobs]
    async with asyncio.timeout(20):
        while (await (await one.get("/healthz")).json())["streams"] < 2:
            pass
        await one.server.close()
        by_end = {seen[-1].data.get("code"): seen for seen in await asyncio.gather(*reading)}
    assert set(by_end) == {"shutting_down", None}
    seen = by_end[None]
    assert seen[-1].data["state"] == "running"
    job_id = seen[0].data["jobId"]
    async with other.delete(f"/api/jobs/{job_id}") as response:
        assert response.status == 202
    rest = await follow(other, job_id, after=seen[-1].id)
    assert [event.id for event in rest] == [seen[-1].id + 1]
    assert verdict(rest)["reason"] == "cancelled"


async def test_a_reader_gets_an_end_that_arrives_when_its_service_has_drained(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.web.app.END_ARRIVES_S", 20)
    client = await start(plugins=(Remote(random.randrange(10**6)),))
    parts = parts_of(client)
    drain = parts.drain

    def cut(_: Wire) -> None:
        raise ConnectionResetError

    async def cut_off(timeout_s: float) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Wire, "cut", cut)  # no event reaches a reader meanwhile
            await drain(timeout_s)

    monkeypatch.setattr(parts, "drain", cut_off)
    job_id = await submit(client, **SLEEPER)
    async with client.get(f"/api/stream/{job_id}") as response:
        events = received(response)
        async for event in events:
            if event.data.get("state") == "running":
                break
        stopping = asyncio.create_task(client.server.close())
        async with asyncio.timeout(30):
            assert verdict([event async for event in events])["code"] == "shutting_down"
            await stopping


def post(client: AnyClient, key: str, body: object, path: str = "/api/execute") -> Any:
    return client.post(path, json=body, headers={"Idempotency-Key": key})


async def accepted(client: AnyClient, key: str, job: object) -> tuple[str, bool]:
    """Submit a job with a key; return its id, and whether it was there already."""
    async with post(client, key, job) as response:
        assert response.status == 202, await response.text()
        return (await response.json())["jobId"], "Idempotency-Replayed" in response.headers


async def listed(client: AnyClient) -> list[str]:
    async with client.get("/api/jobs") as response:
        return [job["jobId"] for job in (await response.json())["jobs"]]


async def test_one_key_at_both_at_once_is_one_job(pair: Pair) -> None:
    job = python("print(1)")
    for key in ("a", "b", "c"):
        both = [accepted(client, key, job) for client in pair * 5]
        answers = await asyncio.gather(*both)
        assert len({job_id for job_id, _ in answers}) == 1
        assert [replayed for _, replayed in answers].count(False) == 1
    assert len(await listed(pair[0])) == 3
    assert await listed(pair[0]) == await listed(pair[1])


async def test_a_key_of_one_holds_at_the_other_for_its_whole_life(pair: Pair) -> None:
    one, other = pair
    job = python("print(1)")
    job_id, _ = await accepted(one, "k", job)
    assert await accepted(other, "k", job) == (job_id, True)
    async with post(other, "k", python("print(2)")) as response:
        await problem(response, 409, "conflict")
    await follow(other, job_id)
    assert await accepted(other, "k", job) == (job_id, True)
    async with other.delete(f"/api/jobs/{job_id}?purge=1") as response:
        assert response.status == 204
    async with post(one, "k", job) as response:
        await problem(response, 410, "gone")
    async with post(one, "k", python("print(2)")) as response:
        await problem(response, 409, "conflict")
    assert await listed(one) == []


async def test_a_batch_of_one_is_repeated_at_the_other(pair: Pair) -> None:
    one, other = pair
    jobs = [python(f"print({number})", priority=number) for number in range(3)]

    async def batch(client: AnyClient, *jobs: object) -> list[dict[str, Any]]:
        async with post(client, "k", jobs, "/api/execute/batch") as response:
            assert response.status == 200
            told: list[dict[str, Any]] = await response.json()
            return told

    twice = await asyncio.gather(batch(one, *jobs), batch(other, *jobs))
    ids = [[told["jobId"] for told in batch] for batch in twice]
    assert ids[0] == ids[1]
    assert len({*ids[0]}) == 3
    again = await batch(other, jobs[0], python("print('else')"), jobs[2], python("print(3)"))
    assert [told.get("jobId") for told in again[:3]] == [ids[0][0], None, ids[0][2]]
    assert (again[1]["status"], again[1]["code"]) == (409, "conflict")
    assert len(await listed(one)) == 4


async def test_a_submission_whose_answer_is_lost_is_repeated_at_the_other(pair: Pair) -> None:
    one, other = pair
    job = python("print(1)")
    for number in range(5):
        body = json.dumps(job).encode()
        _, writer = await asyncio.open_connection(one.host, one.port)
        head = f"POST /api/execute HTTP/1.1\r\nHost: 127.0.0.1:{one.port}\r\n"
        head += f"Idempotency-Key: k{number}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.transport.abort()
        job_id, _ = await accepted(other, f"k{number}", job)
        assert await accepted(one, f"k{number}", job) == (job_id, True)
        assert verdict(await follow(other, job_id))["exitCode"] == 0
    assert len(await listed(one)) == 5

"""GET /api/stream?job=a&job=b: several jobs in one stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientResponse

from streamer.model.events import Gap, decode
from streamer.sse import EventParser
from tests.conftest import Start
from tests.support import AnyClient, follow, submit
from tests.web import SLEEPER, problem, python

LINES = "import sys\nfor n in range(40): print(sys.argv[1], n, flush=True)"


@dataclass(frozen=True)
class Tagged:
    """One event of a stream of several jobs."""

    id: str
    kind: str
    data: dict[str, Any]


async def tagged(response: ClientResponse) -> AsyncIterator[Tagged]:
    parser = EventParser()
    async for chunk in response.content.iter_any():
        for number, kind, data in parser.feed(chunk):
            yield Tagged(number, kind, json.loads(data))


def query(job_ids: list[str]) -> list[tuple[str, str]]:
    return [("job", job_id) for job_id in job_ids]


def of_job(events: list[Tagged], job_id: str) -> list[tuple[str, dict[str, Any]]]:
    mine = [(e.kind, dict(e.data)) for e in events if e.data["jobId"] == job_id]
    for _, data in mine:
        del data["jobId"]
    return mine


async def alone(client: AnyClient, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    events = [(event.kind, dict(event.data)) for event in await follow(client, job_id)]
    for _, data in events:
        data.pop("jobId", None)
    return events


async def test_each_event_says_whose_it_is_and_none_is_missing(start: Start) -> None:
    client = await start()
    job_ids = [await submit(client, **python(LINES, args=[name])) for name in ("a", "b", "c")]
    async with client.get("/api/stream", params=query(job_ids)) as response:
        assert response.status == 200
        events = [event async for event in tagged(response)]
    assert {event.data["jobId"] for event in events} == set(job_ids)
    for job_id in job_ids:
        assert of_job(events, job_id) == await alone(client, job_id)
    positions = [tuple(map(int, event.id.split("."))) for event in events]
    for before, after in zip([(0, 0, 0), *positions], positions, strict=False):
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 0, 1]


async def test_a_cut_after_every_event_loses_and_doubles_nothing(start: Start) -> None:
    client = await start()
    job_ids = [await submit(client, **python(LINES, args=[name])) for name in ("a", "b")]
    params = query(job_ids)
    seen: list[Tagged] = []
    while True:
        headers = {"Last-Event-ID": seen[-1].id} if seen else {}
        async with client.get("/api/stream", params=params, headers=headers) as response:
            if response.status == 204:
                break
            assert response.status == 200
            seen.append(await anext(tagged(response)))
            response.close()
    for job_id in job_ids:
        assert of_job(seen, job_id) == await alone(client, job_id)


async def test_the_id_may_come_in_the_query(start: Start) -> None:
    client = await start()
    job_ids = [await submit(client, **python(LINES, args=[name])) for name in ("a", "b")]
    async with client.get("/api/stream", params=query(job_ids)) as response:
        events = [event async for event in tagged(response)]
    params = [*query(job_ids), ("lastEventId", events[9].id)]
    async with client.get("/api/stream", params=params) as response:
        rest = [event async for event in tagged(response)]
    for job_id in job_ids:
        assert of_job([*events[:10], *rest], job_id) == await alone(client, job_id)


async def test_one_may_end_long_before_the_other(start: Start) -> None:
    client = await start()
    echo = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    slow = await submit(client, **python(echo, interactive=True))
    quick = await submit(client, **python("print('quick')"))
    async with client.get("/api/stream", params=query([slow, quick])) as response:
        events = tagged(response)
        async for event in events:
            if event.kind == "complete":
                break
        assert event.data["jobId"] == quick
        async with client.post(f"/api/jobs/{slow}/stdin?close=1", data=b"still here\n") as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    assert "still here\n" in "".join(e.data.get("data", "") for e in rest)
    assert (rest[-1].kind, rest[-1].data["jobId"]) == ("complete", slow)


async def test_the_same_job_twice_is_once(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    async with client.get("/api/stream", params=query([job_id, job_id])) as response:
        events = [event async for event in tagged(response)]
    assert of_job(events, job_id) == await alone(client, job_id)


async def test_what_is_not_there_is_refused(start: Start) -> None:
    client = await start()
    job_id = await submit(client, command=["true"])
    async with client.get("/api/stream") as response:
        assert (await problem(response, 400, "invalid_request"))["path"] == "?job"
    async with client.get("/api/stream", params=query([job_id, "nothere"])) as response:
        assert "nothere" in (await problem(response, 404, "not_found"))["detail"]
    async with client.get("/api/stream", params=query([f"job{n}" for n in range(101)])) as response:
        await problem(response, 400, "invalid_request")
    garbage = {"Last-Event-ID": "7.x"}
    async with client.get("/api/stream", params=query([job_id]), headers=garbage) as response:
        assert len([event async for event in tagged(response)]) == len(await alone(client, job_id))


async def test_a_job_that_expired_meanwhile_does_not_end_the_others(start: Start) -> None:
    client = await start()
    gone = await submit(client, command=["true"])
    stays = await submit(client, **SLEEPER)
    params = query([gone, stays])
    async with client.get("/api/stream", params=params) as response:
        async for event in tagged(response):
            if event.kind == "complete":
                break
    async with client.delete(f"/api/jobs/{gone}?purge=1") as answer:
        assert answer.status == 204
    headers = {"Last-Event-ID": event.id}
    async with client.get("/api/stream", params=params, headers=headers) as response:
        assert response.status == 200
        events = tagged(response)
        async with client.delete(f"/api/jobs/{stays}") as answer:
            assert answer.status == 202
        rest = [event async for event in events]
    (gap,) = [event for event in rest if event.data["jobId"] == gone]
    assert (gap.kind, gap.data["to"], gap.data["reason"]) == ("gap", None, "expired")
    assert isinstance(decode(gap.kind, json.dumps(gap.data).encode()), Gap), "it has its type"
    assert (rest[-1].kind, rest[-1].data["jobId"]) == ("complete", stays)
    headers = {"Last-Event-ID": rest[-1].id}
    async with client.get("/api/stream", params=query([gone]), headers=headers) as response:
        await problem(response, 404, "not_found")


async def test_it_counts_as_a_reader_of_each(start: Start) -> None:
    client = await start(streams={"max_readers_per_job": 1})
    job_ids = [await submit(client, **SLEEPER) for _ in range(2)]
    async with client.get("/api/stream", params=query(job_ids)) as first:
        assert first.status == 200
        for job_id in job_ids:
            async with client.get(f"/api/stream/{job_id}") as second:
                await problem(second, 429, "rate_limited")
            async with client.get(f"/api/jobs/{job_id}/sessions") as answer:
                (session,) = (await answer.json())["sessions"]
                assert session["peer"] == "127.0.0.1"


async def test_readers_of_all_jobs_together_are_bounded(start: Start) -> None:
    client = await start(streams={"max_readers": 2})
    jobs = [await submit(client, **SLEEPER) for _ in range(3)]
    async with (
        client.get(f"/api/stream/{jobs[0]}"),
        client.get(f"/api/stream/{jobs[1]}"),
        client.get(f"/api/stream/{jobs[2]}") as third,
    ):
        document = await problem(third, 429, "rate_limited")
        assert "2 streams" in document["detail"]
        assert int(third.headers["Retry-After"]) >= 1


async def test_readers_in_the_same_step_share_nothing(start: Start) -> None:
    client = await start()
    job_ids = [await submit(client, **python(LINES, args=[name])) for name in ("a", "b")]

    async def one(order: list[str]) -> list[Tagged]:
        async with client.get("/api/stream", params=query(order)) as response:
            return [event async for event in tagged(response)]

    both = await asyncio.gather(*(one(order) for order in (job_ids, job_ids[::-1]) * 5))
    for events in both:
        for job_id in job_ids:
            assert of_job(events, job_id) == await alone(client, job_id)

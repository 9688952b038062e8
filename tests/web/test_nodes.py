"""Two services with one engine: each answers for the jobs of the other like for its own."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.conftest import Start
from tests.engine.remote.wire import Wire
from tests.support import AnyClient, Received, follow, parts_of, received, submit, text, verdict
from tests.web import SLEEPER, python, until_output, until_state
from tests.web.conftest import Remote

Pair = tuple[AnyClient, AnyClient]
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"

pytestmark = pytest.mark.memory_engine("its engines are its own")


@pytest.fixture
async def pair(start: Start) -> Pair:
    seed = random.randrange(10**6)
    print(f"the connections' seed: {seed}")  # noqa: T201 - shown with a failure
    remote = Remote(seed, nodes=2)
    return await start(plugins=(remote,)), await start(plugins=(remote,))


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


async def test_a_service_that_stops_sends_readers_of_jobs_that_go_on_to_the_other(
    start: Start,
) -> None:
    remote = Remote(random.randrange(10**6), nodes=2)
    one, other = [await start(plugins=(remote,), queue={"concurrency": 1}) for _ in range(2)]
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

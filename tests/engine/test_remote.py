"""The engine that behaves like a remote one, with the worst connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest

from streamer.engine.interface import JobView, Lease
from streamer.errors import UnknownJob
from streamer.jobs.job import Job
from streamer.model.events import Event, Gap

from . import (
    ACCEPTS,
    claim_one,
    complete,
    events_of,
    follow,
    make_job,
    output,
    start,
    submit,
    texts,
)
from .conftest import MemoryBench
from .remote.engine import RemoteEngine
from .remote.server import Server
from .remote.wire import Weather, Wire

T = TypeVar("T")
SEEDS = range(8)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    bench = MemoryBench()
    yield Server(bench.memory(), clock=lambda: bench.now, nodes=2)
    await bench.close()


async def again(say: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it is answered, as a worker does."""
    while True:
        try:
            return await say()
        except ConnectionError:
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_said_again_is_written_once(server: Server, seed: int) -> None:
    engine = RemoteEngine(server, Wire(seed, Weather(lost=0.6)))
    heard: list[JobView] = []
    engine.listen(heard.append)
    job = make_job()
    await engine.submit(job)
    leases: list[Lease] = []
    while not leases:
        leases += await again(lambda: engine.claim("worker", 1, ACCEPTS))
    [lease] = leases
    await again(lambda: lease.state("running"))
    for number in range(30):
        events = [output(f"{number} "), output(f"{number} ")]
        await again(lambda events=events: lease.append(events))  # type: ignore[misc]
    assert await again(lambda: lease.finish([complete()])), "as the answer that was lost"
    assert not await again(lambda: lease.finish([complete("signaled")]))
    expected = "".join(f"{number} {number} " for number in range(30))
    assert texts(await events_of(engine, job.job_id)) == expected
    assert [view.job.job_id for view in heard] == [job.job_id]


async def test_a_write_that_was_given_up_does_not_take_the_place_of_another(
    server: Server,
) -> None:
    for seed in range(60):
        engine = RemoteEngine(server, Wire(seed, patient=True))
        lease = await start(engine)
        giving_up = asyncio.create_task(lease.append([output("a")]))
        for _ in range(seed % 12):
            await asyncio.sleep(0)
        giving_up.cancel()
        await asyncio.gather(giving_up, return_exceptions=True)
        await lease.append([output("b")])
        assert await lease.finish([output("c"), complete()])
        events = await events_of(engine, lease.job.job_id)
        assert texts(events) in ("abc", "bc")
        assert events[-1].kind == "complete"


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_mirror_that_is_cut_all_the_time_has_every_event_once(
    server: Server, seed: int
) -> None:
    engine = RemoteEngine(server, Wire(seed, Weather(cut=0.7)))
    lease = await start(RemoteEngine(server, Wire(seed, patient=True)))
    readers = [asyncio.create_task(follow(engine, lease.job.job_id)) for _ in range(3)]
    for number in range(200):
        await lease.append([output(f"{number}\n")])
    await lease.finish([complete()])
    read = await asyncio.gather(*readers)
    assert [event.id for event in read[0]] == list(range(1, len(read[0]) + 1))
    assert texts(read[0]) == "".join(f"{number}\n" for number in range(200))
    assert read == [read[0]] * 3


async def test_readers_of_one_node_begin_where_each_is(server: Server) -> None:
    one = RemoteEngine(server, Wire(1, patient=True))
    other = RemoteEngine(server, Wire(2))
    lease = await start(one)
    job_id = lease.job.job_id
    for number in range(10):
        await lease.append([output(f"{number}\n")])
    whole = await events_of(one, job_id)
    async with other.follow(job_id, 8) as late:
        assert (late.first_id, late.last_id) == (9, len(whole))
        async with other.follow(job_id) as log:
            assert log.first_id == 1, "a gap that is none"
            assert [event async for event in log.entries()] == whole
        async with other.follow(job_id, 5) as log:
            assert [event async for event in log.entries(5)] == whole[5:]
        await lease.append([output("new")])
        assert await late.wait(len(whole))
    await lease.finish([complete()])


async def test_a_claim_whose_answer_was_lost_loses_no_job(server: Server) -> None:
    engine = RemoteEngine(server, Wire(5, Weather(lost=0.8)))
    expected = await submit(engine, *"abcdefgh")
    claimed: list[Lease] = []
    while len(claimed) < len(expected):
        leases = await again(lambda: engine.claim("worker", 2, ACCEPTS))
        assert len(leases) <= 2
        claimed += leases
    assert [lease.job.job_id for lease in claimed] == expected


async def test_a_node_that_drains_ends_what_its_worker_was_given_and_did_not_hear_of() -> None:
    for turns in range(20):
        bench = MemoryBench()
        engine = RemoteEngine(Server(bench.memory()), Wire(turns))
        claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
        [job_id] = await submit(engine, "a")
        reading = asyncio.create_task(follow(engine, job_id))
        for _ in range(turns):
            await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain())
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        await draining
        leases = [] if claiming.cancelled() else claiming.result()
        for lease in leases:
            await lease.finish([complete()])
        last: Event = (await reading)[-1]
        assert last.kind == ("complete" if leases else "error")
        await engine.close()


async def test_a_job_that_is_forgotten_before_it_was_read_ends_with_a_gap(server: Server) -> None:
    lease = await start(RemoteEngine(server, Wire(1, patient=True)))
    job_id = lease.job.job_id
    wire = Wire(2)
    engine = RemoteEngine(server, wire)
    async with engine.follow(job_id) as log:
        wire.weather = Weather(cut=1.0)
        result = asyncio.create_task(Job(engine, job_id).result())
        await lease.append([output("a")])
        await lease.finish([complete()])
        assert await engine.purge(job_id)
        [event] = [event async for event in log.events(2)]
    assert (event.id, event.data) == (3, Gap(3, None, "expired"))
    with pytest.raises(UnknownJob):
        await result


async def test_a_claim_begins_with_what_an_earlier_one_has_taken(server: Server) -> None:
    engine = RemoteEngine(server, Wire(3))
    first = await submit(engine, "a")
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    for _ in range(4):
        await asyncio.sleep(0)
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    second = await submit(engine, "b")
    assert (await claim_one(engine)).job.job_id == first[0]
    assert (await claim_one(engine)).job.job_id == second[0]

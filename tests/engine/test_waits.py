"""How long a job waits: told in its log and its view, and to its tenant with the queue."""

from __future__ import annotations

from dataclasses import replace

from streamer.engine.interface import Engine, OwnQueue, WaitingJob
from streamer.model.events import Status

from . import claim_one, complete, events_of, make_job, submit
from .conftest import Bench


async def one_that_took(engine: Engine, bench: Bench, seconds: float, tenant: str = "z") -> None:
    """Let the engine know how long a job takes."""
    await submit(engine, tenant)
    lease = await claim_one(engine)
    await bench.pass_time(seconds)
    await lease.finish([complete()])


async def told(engine: Engine, job_id: str) -> list[tuple[int | None, int | None]]:
    """Return the places and waits in the log of a job."""
    found = [event.data for event in await events_of(engine, job_id)]
    return [(one.position, one.estimated_wait_ms) for one in found if isinstance(one, Status)]


async def wait_of(engine: Engine, job_id: str) -> float | None:
    view = await engine.summary(job_id)
    assert view is not None
    return view.estimated_wait_s


async def test_a_job_is_told_how_long_it_waits_as_it_moves_up(bench: Bench) -> None:
    engine = await bench.make(places=1)
    await one_that_took(engine, bench, 4)
    first, second, third = await submit(engine, *"aaa")
    assert await told(engine, third) == [(3, 0)], "a place is free"
    lease = await claim_one(engine)
    assert await told(engine, third) == [(3, 0), (2, 8000)]
    assert await wait_of(engine, second) == 4
    assert await wait_of(engine, third) == 8
    await lease.finish([complete()])
    running = await claim_one(engine)
    assert running.job.job_id == second
    assert (await told(engine, third))[-1] == (1, 4000 // 2), "the last ones took 2 s in the mean"
    assert await wait_of(engine, second) is None
    assert await wait_of(engine, first) is None


async def test_a_queue_that_stands_still_is_told_now_and_then(bench: Bench) -> None:
    engine = await bench.make(places=1, lease_s=100_000.0)
    await submit(engine, "a")
    await claim_one(engine)
    [waiting] = await submit(engine, "a")
    for _ in range(1000):
        await bench.pass_time(5)
        await engine.reap()
    waits = [wait or 0 for _, wait in await told(engine, waiting)]
    assert waits[:3] == [0, 5000, 15000]
    assert len(waits) < 20
    assert waits[-1] > 2000_000


async def test_a_wait_that_comes_and_goes_does_not_fill_the_log(bench: Bench) -> None:
    engine = await bench.make(places=1, lease_s=100_000.0)
    [waiting] = [(await engine.submit(replace(make_job(), priority=-1), tenant="a")).job_id]
    for _ in range(120):
        await submit(engine, "a")
        lease = await claim_one(engine)
        await bench.pass_time(1000)
        await engine.reap()
        await lease.finish([complete()])
        await engine.reap()
    assert len(await told(engine, waiting)) == 100


async def test_a_tenant_at_its_bound_is_told_that_it_waits_for_its_own(bench: Bench) -> None:
    engine = await bench.make(places=4, max_running_per_client=1)
    await one_that_took(engine, bench, 10)
    await submit(engine, "a")
    await claim_one(engine)
    first, second = await submit(engine, "a", "a")
    assert await wait_of(engine, first) == 10, "three places are free, and none is for a"
    assert await wait_of(engine, second) == 20
    assert (await told(engine, second))[0] == (2, 20_000)
    assert (await engine.own_queue("a")).estimated_wait_s == 30
    assert (await engine.own_queue("b")).estimated_wait_s == 0
    [other] = await submit(engine, "b")
    assert await wait_of(engine, other) == 0


async def test_a_tenant_sees_what_it_has_in_the_queue(bench: Bench) -> None:
    engine = await bench.make(places=1, max_running_per_client=5)
    await one_that_took(engine, bench, 4)
    assert await engine.own_queue("a") == OwnQueue(0, 0, 5, 0.0, [])
    await submit(engine, "a")
    await claim_one(engine)
    later = await submit(engine, "a", "a")
    urgent = replace(make_job(), priority=1)
    await engine.submit(urgent, tenant="a")
    await submit(engine, "b")
    own = await engine.own_queue("a")
    assert (own.running, own.waiting, own.most_running) == (1, 3, 5)
    assert list(own.jobs) == [
        WaitingJob(urgent.job_id, 2, 8.0),
        WaitingJob(later[0], 3, 12.0),
        WaitingJob(later[1], 4, 16.0),
    ]
    assert own.estimated_wait_s == 20, "behind all of its own, and one of b"
    assert (await engine.own_queue("b")).estimated_wait_s == 12
    assert (await engine.own_queue("c")).estimated_wait_s == 8, "before a, which had the last turn"
    await submit(engine, *"a" * 20)
    assert len((await engine.own_queue("a")).jobs) == 10


async def test_a_new_job_of_low_priority_ones_is_before_them(bench: Bench) -> None:
    engine = await bench.make(places=1)
    await one_that_took(engine, bench, 4)
    await submit(engine, "b")
    await claim_one(engine)
    for priority in (-1, 1, -1, 0):
        await engine.submit(replace(make_job(), priority=priority), tenant="a")
    assert (await engine.own_queue("a")).estimated_wait_s == 12
    await engine.submit(make_job(), tenant="a")
    assert (await engine.own_queue("a")).estimated_wait_s == 16


async def test_those_far_behind_are_told_some_at_a_time(engine: Engine) -> None:
    waiting = await submit(engine, *"a" * 800)
    assert len(await engine.claim("worker", 300)) == 300
    for _ in range(12):
        await claim_one(engine)
    for number in (320, 500, 799):
        place = number - 312 + 1
        last, _ = (await told(engine, waiting[number]))[-1]
        assert last is not None
        assert place <= last <= place * 1.2, "within a tenth, and the claims since it was told"

"""The order of the queue: fair between tenants, by priority within one."""

from __future__ import annotations

import random
from dataclasses import replace

from streamer.engine.interface import Engine
from streamer.model.events import Status

from . import ACCEPTS, claim_one, complete, events_of, make_job, position, submit
from .conftest import Bench
from .test_sessions import make_session, opened


async def submit_with(engine: Engine, *priorities: int, tenant: str = "a") -> list[str]:
    """Submit a job with each priority; return their ids."""
    jobs = [replace(make_job(), priority=priority) for priority in priorities]
    return [(await engine.submit(job, tenant=tenant)).job_id for job in jobs]


async def claimed(engine: Engine, most: int = 100) -> list[str]:
    return [lease.job.job_id for lease in await engine.claim("worker", most, ACCEPTS)]


async def test_the_highest_priority_is_first_and_within_one_the_first_to_come(
    engine: Engine,
) -> None:
    jobs = await submit_with(engine, 0, 10, -10, 3, 0, 10, -10, 3)
    order = [jobs[number] for number in (1, 5, 3, 7, 0, 4, 2, 6)]
    assert [await position(engine, job_id) for job_id in order] == [*range(1, 9)]
    assert await claimed(engine) == order


async def test_a_priority_is_told_with_the_job(engine: Engine) -> None:
    [job_id] = await submit_with(engine, 7)
    view = await engine.summary(job_id)
    assert view is not None
    assert view.job.priority == 7
    assert [one.job.priority for one in await engine.jobs(tenant="a")] == [7]
    lease = await claim_one(engine)
    assert lease.job.priority == 7
    await lease.finish([complete()])
    assert [one.job.priority for one in await engine.jobs(tenant="a")] == [7]


async def test_a_priority_costs_no_other_tenant_its_turn(engine: Engine) -> None:
    low = await submit_with(engine, -10, -10, tenant="b")
    high = await submit_with(engine, 10, 10, 10, tenant="a")
    assert await claimed(engine) == [low[0], high[0], low[1], high[1], high[2]]


async def test_who_is_overtaken_is_told(engine: Engine) -> None:
    first, second = await submit_with(engine, 0, 0)
    late = await submit_with(engine, 1, 1)
    assert [await position(engine, one) for one in (*late, first, second)] == [1, 2, 3, 4]
    assert await claimed(engine, 1) == late[:1]
    told = [event.data for event in await events_of(engine, second)]
    assert [one.position for one in told if isinstance(one, Status)] == [2, 3]


async def test_every_place_is_right_with_many_priorities_and_tenants(engine: Engine) -> None:
    seed = random.randrange(10**6)
    print(f"the seed: {seed}")  # noqa: T201 - shown with a failure
    chosen = random.Random(seed)
    waiting: list[str] = []
    for _ in range(60):
        waiting += await submit_with(engine, chosen.randint(-10, 10), tenant=chosen.choice("abcd"))
        if chosen.random() < 0.3:
            waiting.remove((await claim_one(engine)).job.job_id)
        if waiting and chosen.random() < 0.1:
            await engine.cancel(waiting.pop(chosen.randrange(len(waiting))))
    places = {await position(engine, job_id): job_id for job_id in waiting}
    assert await claimed(engine) == [places[place] for place in range(1, len(waiting) + 1)]


async def test_the_oldest_wait_is_that_of_any_priority(engine: Engine, bench: Bench) -> None:
    await submit_with(engine, -5)
    await bench.pass_time(7)
    await submit_with(engine, 5)
    await submit(engine, "b")
    assert round((await engine.stats()).oldest_wait_s) == 7
    await claimed(engine, 2)
    assert round((await engine.stats()).oldest_wait_s) == 7
    await claimed(engine, 1)
    assert (await engine.stats()).oldest_wait_s == 0


async def test_jobs_of_a_session_keep_their_order(engine: Engine) -> None:
    session_id = await opened(engine, make_session(tenant="a"), worker="worker")
    jobs = [
        replace(make_job(), session_id=session_id, priority=priority) for priority in (0, -5, 10, 9)
    ]
    for job in jobs:
        await engine.submit(job, tenant="a")
    [between] = await submit_with(engine, -3)
    order = [jobs[0].job_id, between, *(job.job_id for job in jobs[1:])]
    assert [await position(engine, job_id) for job_id in order] == [1, 2, 3, 4, 5]
    ran: list[str] = []
    while len(ran) < len(order):
        for lease in await engine.claim("worker", 9, ACCEPTS):
            ran.append(lease.job.job_id)
            assert await lease.finish([complete()])
    assert ran == order


async def test_one_tenants_flood_costs_another_at_most_one_job(bench: Bench) -> None:
    """At one place: what runs when the other comes, and nothing else."""
    engine = await bench.make(places=1, max_waiting=2000)
    await submit(engine, *"a" * 1000)
    for _ in range(3):
        running = await claim_one(engine)
        [single] = await submit(engine, "b")
        assert await position(engine, single) == 1
        await running.finish([complete()])
        lease = await claim_one(engine)
        assert lease.job.job_id == single
        await lease.finish([complete()])


async def test_newcomers_never_keep_a_tenant_from_its_turn(bench: Bench) -> None:
    engine = await bench.make(places=1)
    left = await submit(engine, *"a" * 6)
    order = ""
    for number in range(9):
        lease = await claim_one(engine)
        order += "a" if lease.job.job_id in left else "."
        left = [job_id for job_id in left if job_id != lease.job.job_id]
        if (await engine.stats()).waiting == len(left):
            await submit(engine, f"newcomer{number}")
        await lease.finish([complete()])
    assert order == "a.a.a.a.a"

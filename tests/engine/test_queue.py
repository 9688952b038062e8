"""The promises of every engine: admission, turns, lists, and the shutdown."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from streamer.engine.interface import Engine, Idempotency, LeaseLost, Lost, Submitted
from streamer.errors import Busy, Conflict, Draining
from streamer.model.capabilities import Accepts
from streamer.model.events import Error, Status

from . import (
    ACCEPTS,
    claim_one,
    complete,
    events_of,
    follow,
    make_job,
    output,
    position,
    start,
    submit,
)
from .conftest import Bench


async def test_one_key_gives_one_job(engine: Engine) -> None:
    first, second = make_job(), make_job()
    key = Idempotency("key", b"digest")
    assert await engine.submit(first, tenant="a", idempotency=key) == Submitted(
        first.job_id, created=True
    )
    assert await engine.submit(second, tenant="a", idempotency=key) == Submitted(
        first.job_id, created=False
    )
    assert await engine.summary(second.job_id) is None
    assert (await engine.stats()).waiting == 1


async def test_one_key_gives_one_job_to_many_at_once(engine: Engine) -> None:
    key = Idempotency("key", b"digest")
    answers = await asyncio.gather(
        *(engine.submit(make_job(), tenant="a", idempotency=key) for _ in range(20))
    )
    assert len({answer.job_id for answer in answers}) == 1
    assert [answer.created for answer in answers].count(True) == 1


async def test_a_key_belongs_to_its_tenant_and_to_one_request(engine: Engine) -> None:
    await engine.submit(make_job(), tenant="a", idempotency=Idempotency("key", b"one"))
    with pytest.raises(Conflict, match="'key'"):
        await engine.submit(make_job(), tenant="a", idempotency=Idempotency("key", b"two"))
    other = await engine.submit(make_job(), tenant="b", idempotency=Idempotency("key", b"two"))
    assert other.created
    assert (await engine.stats()).waiting == 2


async def test_a_key_is_free_again_when_its_job_is_forgotten(engine: Engine, bench: Bench) -> None:
    key = Idempotency("key", b"digest")
    first = await engine.submit(make_job(), idempotency=key)
    await (await claim_one(engine)).finish([complete()])
    assert await engine.submit(make_job(), idempotency=key) == Submitted(
        first.job_id, created=False
    )
    await bench.pass_time(601)
    again = await engine.submit(make_job(), idempotency=Idempotency("key", b"other"))
    assert again.created


async def test_a_job_that_is_submitted_twice_is_one(engine: Engine) -> None:
    job = make_job()
    assert (await engine.submit(job)).created
    assert not (await engine.submit(job)).created
    assert not (await engine.submit(job, idempotency=Idempotency("key", b""))).created
    assert (await engine.stats()).waiting == 1


async def test_a_full_queue_refuses_at_once_and_has_room_again(bench: Bench) -> None:
    engine = await bench.make(max_waiting=3)
    key = Idempotency("key", b"digest")
    first = await engine.submit(make_job(), tenant="a", idempotency=key)
    await submit(engine, "b")
    await submit(engine, "c")
    assert await engine.ready(), "a full queue is the callers' doing"
    with pytest.raises(Busy) as refused:
        await submit(engine, "d")
    assert 1 <= refused.value.retry_after_s <= 60
    repeated = await engine.submit(make_job(), tenant="a", idempotency=key)
    assert repeated == Submitted(first.job_id, created=False), "a repetition takes no room"
    assert (await engine.stats()).waiting == 3
    await claim_one(engine)
    await submit(engine, "d")


async def test_a_tenant_has_no_more_than_its_share(bench: Bench) -> None:
    engine = await bench.make(max_waiting_per_client=2)
    first, _ = await submit(engine, "a", "a")
    with pytest.raises(Busy) as refused:
        await submit(engine, "a")
    assert refused.value.retry_after_s >= 1
    await submit(engine, "b")
    await engine.cancel(first)
    await submit(engine, "a")
    with pytest.raises(Busy):
        await submit(engine, "a")


async def test_tenants_take_turns_and_each_has_its_order(engine: Engine) -> None:
    flood = await submit(engine, *"a" * 50)
    b = await submit(engine, *"bb")
    c = await submit(engine, "c")
    leases = await engine.claim("worker", 8, ACCEPTS)
    assert [lease.job.job_id for lease in leases] == [
        *(flood[0], b[0], c[0]),
        *(flood[1], b[1]),
        *flood[2:5],
    ]
    [late] = await submit(engine, "d")
    next_ids = [lease.job.job_id for lease in await engine.claim("worker", 2, ACCEPTS)]
    assert next_ids[0] == late, "whoever comes into a flood has the next turn"


async def test_the_position_is_the_number_of_claims_to_come(engine: Engine) -> None:
    waiting = await submit(engine, *"aaabbcaddb")
    places = {job_id: await position(engine, job_id) for job_id in waiting}
    order = [lease.job.job_id for lease in await engine.claim("worker", 20, ACCEPTS)]
    assert [places[job_id] for job_id in order] == list(range(1, 11))
    assert [await position(engine, job_id) for job_id in waiting] == [None] * 10
    assert await position(engine, "nobody") is None


async def test_the_first_event_tells_the_position(engine: Engine) -> None:
    places = []
    for tenant in "aab":
        [job_id] = await submit(engine, tenant)
        [event] = await events_of(engine, job_id)
        assert isinstance(event.data, Status)
        places.append(event.data.position)
    assert places == [1, 2, 2]


async def test_claim_gives_no_more_than_asked(engine: Engine) -> None:
    await submit(engine, *"abc")
    assert len(await engine.claim("worker", 0, ACCEPTS)) == 0
    assert len(await engine.claim("worker", 2, ACCEPTS)) == 2
    assert len(await engine.claim("worker", 2, ACCEPTS)) == 1


async def test_a_cancelled_job_is_never_claimed(engine: Engine) -> None:
    first, second, third = await submit(engine, *"aab")
    await engine.cancel(first)
    await engine.cancel(third)
    [lease] = await engine.claim("worker", 3, ACCEPTS)
    assert lease.job.job_id == second


async def test_claim_waits_for_a_job(engine: Engine) -> None:
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    await asyncio.sleep(0)
    [job_id] = await submit(engine, "a")
    [lease] = await claiming
    assert lease.job.job_id == job_id


async def test_claim_waits_about_a_second_at_most(engine: Engine) -> None:
    await start(engine)
    started = time.monotonic()
    assert len(await engine.claim("worker", 1, ACCEPTS)) == 0
    assert 0.5 < time.monotonic() - started < 10


async def test_no_job_is_claimed_twice(engine: Engine) -> None:
    claiming = [asyncio.create_task(engine.claim(f"worker{n}", 2, ACCEPTS)) for n in range(8)]
    await asyncio.sleep(0)
    expected = await submit(engine, *"abcdefgh")
    claimed = [lease for leases in await asyncio.gather(*claiming) for lease in leases]
    while len(claimed) < len(expected):
        claimed += await engine.claim("worker", 8, ACCEPTS)
    assert sorted(lease.job.job_id for lease in claimed) == sorted(expected)


async def test_a_claim_that_is_given_up_loses_no_job(engine: Engine) -> None:
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    await asyncio.sleep(0)
    [job_id] = await submit(engine, "a")
    claiming.cancel()
    try:
        [lease] = await claiming  # it had the job already: a remote engine may take its time
    except asyncio.CancelledError:
        lease = await claim_one(engine)
    assert lease.job.job_id == job_id


async def test_jobs_are_listed_newest_first_by_tenant(engine: Engine) -> None:
    a = await submit(engine, *"aaaaa")
    [b] = await submit(engine, "b")
    lease = await claim_one(engine)
    await lease.finish([complete()])

    place = {
        view.job.job_id: (view.created_at, view.job.job_id)
        for tenant in "ab"
        for view in await engine.jobs(tenant=tenant)
    }

    async def listed(tenant: str = "a", **wanted: object) -> list[str]:
        views = await engine.jobs(tenant=tenant, **wanted)  # type: ignore[arg-type]
        assert all(view.tenant == tenant for view in views)
        return [view.job.job_id for view in views]

    assert await listed() == a[::-1]
    assert await listed("b") == [b]
    assert await listed("nobody") == []
    assert await listed(state="complete") == [a[0]]
    assert await listed(state="queued") == a[:0:-1]
    assert await listed(limit=2) == [a[4], a[3]]
    assert await listed(limit=2, before=place[a[3]]) == [a[2], a[1]]
    assert await listed(before=place[a[0]]) == []
    assert await listed(before=place[b]) == a[::-1], "it came after all of them"
    assert await listed("b", before=place[a[4]]) == []
    assert await listed(before=place[a[2]], state="complete") == [a[0]]


async def test_a_list_goes_on_where_it_was_when_that_job_is_gone(engine: Engine) -> None:
    jobs = await submit(engine, *"aaaaaa")
    for lease in await engine.claim("worker", 6, ACCEPTS):
        await lease.finish([complete()])
    found: list[str] = []
    place = None
    while views := await engine.jobs(tenant="a", limit=2, before=place):
        found += [view.job.job_id for view in views]
        place = (views[-1].created_at, views[-1].job.job_id)
        assert await engine.purge(views[-1].job.job_id)
        await submit(engine, "a")  # what comes meanwhile is newer than every page
    assert found == jobs[::-1]


async def test_the_counters_follow_and_return_to_zero(engine: Engine, bench: Bench) -> None:
    await submit(engine, "a")
    await bench.pass_time(3)
    await submit(engine, "b", "a")
    await bench.pass_time(2)
    stats = await engine.stats()
    assert (stats.waiting, stats.running, stats.logs) == (3, 0, 3)
    assert stats.oldest_wait_s == pytest.approx(5, abs=0.5)
    assert stats.log_bytes > 0
    first, second = await engine.claim("worker", 2, ACCEPTS)
    stats = await engine.stats()
    assert (stats.waiting, stats.running) == (1, 2)
    assert stats.oldest_wait_s == pytest.approx(2, abs=0.5)
    await first.finish([complete()])
    for lease in [second, *await engine.claim("worker", 1, ACCEPTS)]:
        await lease.append([output("x" * 1000)])
        await lease.finish([complete()])
    stats = await engine.stats()
    assert (stats.waiting, stats.running, stats.oldest_wait_s) == (0, 0, 0)
    assert stats.log_bytes > 2000
    for view in [*await engine.jobs(tenant="a"), *await engine.jobs(tenant="b")]:
        assert await engine.purge(view.job.job_id)
    stats = await engine.stats()
    assert (stats.logs, stats.log_bytes) == (0, 0)


async def test_drain_refuses_new_jobs_and_lets_running_ones_end(engine: Engine) -> None:
    key = Idempotency("key", b"digest")
    lease = await start(engine)
    prepared = make_job()
    await engine.submit(prepared, idempotency=key)
    preparing = await claim_one(engine)
    [queued] = await submit(engine, "a")
    await engine.drain()
    await engine.drain()
    assert not await engine.ready()
    with pytest.raises(Draining):
        await submit(engine, "a")
    repeated = await engine.submit(make_job(), idempotency=key)
    assert repeated == Submitted(prepared.job_id, created=False)
    last = (await events_of(engine, queued))[-1].data
    assert isinstance(last, Error)
    assert last.code == "shutting_down"
    await lease.append([output("still here")])
    assert await lease.finish([complete()])
    assert await preparing.finish([complete()])


async def test_close_ends_every_log_and_every_lease(engine: Engine) -> None:
    lease = await start(engine)
    [queued] = await submit(engine, "a")
    readers = [asyncio.create_task(follow(engine, job_id)) for job_id in (lease.job.job_id, queued)]
    waiting = asyncio.ensure_future(anext(aiter(lease.control())))
    await asyncio.sleep(0)
    await engine.close()
    assert await waiting == Lost()
    with pytest.raises(LeaseLost):
        await lease.append([output("late")])
    assert not await lease.finish([complete()])
    for events in await asyncio.gather(*readers):
        last = events[-1].data
        assert isinstance(last, Error)
        assert last.code == "shutting_down"
    with pytest.raises(Draining):
        await submit(engine, "a")


async def test_a_tenant_leaves_a_place_to_others(bench: Bench) -> None:
    engine = await bench.make(places=3, max_running_per_client=2)
    flood = await submit(engine, *"a" * 10)
    first, second = await engine.claim("worker", 3, ACCEPTS)
    assert [first.job.job_id, second.job.job_id] == flood[:2]
    [late] = await submit(engine, "b")
    [third] = await engine.claim("worker", 1, ACCEPTS)
    assert third.job.job_id == late, "a's turn would have been before, but a has its share"
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not claiming.done()
    await first.finish([complete()])
    [next_one] = await claiming
    assert next_one.job.job_id == flood[2]


async def test_the_place_and_the_wait_leave_out_how_much_a_tenant_may_run(bench: Bench) -> None:
    """As docs/http.md describes both values."""
    engine = await bench.make(places=2, max_running_per_client=1)
    _, second = await submit(engine, *"aa")
    lease = await claim_one(engine)
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    [other] = await submit(engine, "b")
    [theirs] = await claiming
    assert theirs.job.job_id == other, "a's second job waits for the end of its first"
    assert await position(engine, second) == 1
    await theirs.finish([complete()])
    assert (await engine.stats()).estimated_wait_s < 60
    assert await position(engine, second) == 1, "with a place free, too"
    await lease.finish([complete()])
    assert (await claim_one(engine)).job.job_id == second


async def test_the_place_is_told_as_it_changes(bench: Bench) -> None:
    engine = await bench.make(max_waiting=2000)
    waiting = await submit(engine, *"a" * 12)
    for _ in range(3):
        await claim_one(engine)
    assert await places_told(engine, waiting[3]) == [4, 3, 2, 1]
    await engine.cancel(waiting[3])
    assert await places_told(engine, waiting[4]) == [5, 4, 3, 2, 1]
    assert await places_told(engine, waiting[11]) == [12, 10, 9, 8]
    view = await engine.summary(waiting[11])
    assert view is not None
    assert view.position == 8
    [other] = await submit(engine, "b")
    await submit(engine, "c")
    await claim_one(engine)
    assert (await places_told(engine, waiting[11]))[-1] == 9, "others' turns come between"
    assert await places_told(engine, other) == [1], "a had the last turn"
    lease = await claim_one(engine)
    view = await engine.summary(lease.job.job_id)
    assert view is not None
    assert view.position is None


async def test_places_that_change_often_are_told_now_and_then(bench: Bench) -> None:
    engine = await bench.make(places_s=0.05)
    waiting = await submit(engine, *"a" * 6)
    for _ in range(2):
        await claim_one(engine)
    await engine.cancel(waiting[2])
    told = []
    async with engine.follow(waiting[5]) as log:
        async for event in log.events(0):
            told.append(event.data.position if isinstance(event.data, Status) else None)
            if told[-1] == 3:
                await claim_one(engine)
            elif told[-1] == 2:
                break
    assert told == [6, 5, 3, 2], "the first at once, those that follow together"


async def test_places_are_told_no_more_once_the_engine_is_closed(bench: Bench) -> None:
    engine = await bench.make(places_s=3600)
    await submit(engine, *"a" * 6)
    for _ in range(2):
        await claim_one(engine)
    await engine.close()
    loop = asyncio.get_running_loop()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []  # type: ignore[attr-defined]


async def test_places_that_are_told_do_not_fill_the_logs(engine: Engine) -> None:
    """The last of a thousand waiting jobs gets a few dozen position events, not a thousand."""
    waiting = await submit(engine, *"a" * 700)
    for _ in range(699):
        await claim_one(engine)
    told = await places_told(engine, waiting[-1])
    assert told[0] == 700
    assert told[-9:] == list(range(9, 0, -1))
    assert len(told) < 60
    for _ in range(300):  # somebody who comes and goes
        await engine.cancel((await submit(engine, "b"))[0])
        await engine.cancel((await submit(engine, "c"))[0])
    assert len(await places_told(engine, waiting[-1])) <= 100


async def places_told(engine: Engine, job_id: str) -> list[int | None]:
    events = await events_of(engine, job_id)
    return [event.data.position for event in events if isinstance(event.data, Status)]


async def test_a_worker_gets_what_it_accepts_and_the_rest_keeps_its_turn(engine: Engine) -> None:
    jobs = [
        replace(make_job(), backend="firejail"),
        make_job(),
        replace(make_job(), language="c"),
        replace(make_job(), language=None),
        replace(make_job(), backend="firejail", language="c"),
    ]
    for job in jobs:
        await engine.submit(job, tenant="a")
    [theirs] = await submit(engine, "b")
    claimed = [lease.job.job_id for lease in await engine.claim("worker", 9, ACCEPTS)]
    assert claimed == [jobs[1].job_id, theirs, jobs[3].job_id]
    assert len(await engine.claim("worker", 9, ACCEPTS)) == 0
    other = Accepts(frozenset({"firejail", "bwrap"}), frozenset({"c"}))
    claimed = [lease.job.job_id for lease in await engine.claim("other", 9, other)]
    assert claimed == [jobs[2].job_id, jobs[4].job_id]
    [anything] = await engine.claim("other", 9)
    assert anything.job == jobs[0]


async def test_a_claim_waits_for_a_job_that_it_accepts(engine: Engine) -> None:
    await engine.submit(replace(make_job(), backend="firejail"))
    claiming = asyncio.create_task(engine.claim("worker", 1, ACCEPTS))
    await asyncio.sleep(0)
    [job_id] = await submit(engine, "a")
    [lease] = await claiming
    assert lease.job.job_id == job_id

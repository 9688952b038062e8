"""The promises of `streamer.engine.interface` for every engine: logs, their ends, leases."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from streamer.engine.interface import (
    SECRET_BYTES,
    Cancel,
    Engine,
    Idempotency,
    JobView,
    Lease,
    LeaseLost,
    Lost,
)
from streamer.errors import Conflict, Draining, UnknownJob
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.events import TERMINAL_KINDS, Complete, Error, Event, Status
from streamer.model.job import SourceFile

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
from .conftest import Bench


async def test_a_log_tells_the_whole_life_of_a_job(engine: Engine, bench: Bench) -> None:
    job = make_job()
    await engine.submit(job)
    lease = await claim_one(engine)
    assert lease.job == job
    await bench.pass_time(0.25)
    await lease.state("preparing")
    await lease.state("compiling")
    await lease.state("running")
    await lease.append([output("a"), output("b")])
    assert await lease.finish([output("c"), complete()])
    events = await events_of(engine, job.job_id)
    assert [event.data for event in events[:4]] == [
        Status("queued", t=0, position=1, estimated_wait_ms=0, job_id=job.job_id),
        Status("preparing", t=250),
        Status("compiling", t=250),
        Status("running", t=250),
    ]
    assert texts(events) == "abc"
    assert isinstance(events[-1].data, Complete)


async def test_a_key_tells_its_job_without_another_one(engine: Engine) -> None:
    key = Idempotency("key", b"digest")
    assert await engine.repeated(key) is None
    first = await engine.submit(make_job(), idempotency=key)
    assert await engine.repeated(key) == first.job_id
    assert await engine.repeated(key, tenant="another") is None
    with pytest.raises(Conflict):
        await engine.repeated(Idempotency("key", b"other"))
    await engine.drain()
    assert await engine.repeated(key) == first.job_id
    with pytest.raises(Draining):
        await engine.submit(make_job())


async def test_the_state_is_followed_and_the_result_kept(engine: Engine) -> None:
    [job_id] = await submit(engine, "tenant")
    view = await engine.summary(job_id)
    assert view is not None
    assert (view.state, view.tenant, view.started_at, view.result) == (
        "queued",
        "tenant",
        None,
        None,
    )
    lease = await claim_one(engine)
    await lease.state("preparing")
    view = await engine.summary(job_id)
    assert view is not None
    assert (view.state, view.finished_at) == ("preparing", None)
    assert view.started_at is not None
    assert view.started_at >= view.created_at
    await lease.finish([complete()])
    view = await engine.summary(job_id)
    assert view is not None
    assert view.state == "complete"
    assert view.finished_at is not None
    assert isinstance(view.result, Complete)
    assert view.result.reason == "exited"


async def test_an_append_that_returned_is_seen_by_every_later_read(engine: Engine) -> None:
    lease = await start(engine)
    for number in range(50):
        await lease.append([output(str(number))])
        events = await events_of(engine, lease.job.job_id)
        assert events[-1].data.data == str(number)  # type: ignore[union-attr]
        async with engine.follow(lease.job.job_id, events[-2].id) as log:
            data, last = await log.read(events[-2].id)
        assert b'"data":"%d"' % number in data
        assert last == events[-1].id


async def test_a_log_may_be_opened_before_during_and_after_the_run(engine: Engine) -> None:
    [job_id] = await submit(engine, "")
    readers = [asyncio.create_task(follow(engine, job_id))]
    await asyncio.sleep(0)
    lease = await claim_one(engine)
    await lease.append([output("a")])
    readers.append(asyncio.create_task(follow(engine, job_id)))
    await asyncio.sleep(0)
    await lease.append([output("b")])
    await lease.finish([complete()])
    readers.append(asyncio.create_task(follow(engine, job_id)))
    before, during, after = await asyncio.gather(*readers)
    assert before == during == after == await events_of(engine, job_id)


async def test_a_reader_resumes_after_every_event_without_gap_or_repetition(
    engine: Engine,
) -> None:
    lease = await start(engine)
    for number in range(30):
        await lease.append([output(f"{number}\n")])
    await lease.finish([complete()])
    async with engine.follow(lease.job.job_id) as log:
        whole, end = await log.read(0)
    first = whole.split(b"\n\n")
    for cut in range(end + 1):
        async with engine.follow(lease.job.job_id, cut) as log:
            data, last = await log.read(cut)
        assert data == b"".join(frame + b"\n\n" for frame in first[cut:-1])
        assert last == end


async def test_a_reader_that_does_not_read_delays_nobody(engine: Engine) -> None:
    lease = await start(engine)
    release = asyncio.Event()

    async def stalled() -> list[Event]:
        events = []
        async with engine.follow(lease.job.job_id) as log:
            async for event in log.events():
                events.append(event)
                await release.wait()
        return events

    slow = [asyncio.create_task(stalled()) for _ in range(3)]
    fast = [asyncio.create_task(follow(engine, lease.job.job_id)) for _ in range(20)]
    for number in range(500):
        await lease.append([output(f"{number}\n")])
    await lease.finish([complete()])
    seen = await asyncio.gather(*fast)
    assert not any(task.done() for task in slow)
    release.set()
    late = await asyncio.gather(*slow)
    expected = await events_of(engine, lease.job.job_id)
    assert all(events == expected for events in [*seen, *late])


async def test_nothing_follows_the_terminal_event(engine: Engine) -> None:
    lease = await start(engine)
    await lease.finish([complete()])
    before = await events_of(engine, lease.job.job_id)
    with pytest.raises(LeaseLost):
        await lease.append([output("late")])
    with pytest.raises(LeaseLost):
        await lease.state("running")
    assert not await lease.finish([complete("signaled")])
    assert await engine.cancel(lease.job.job_id) == "done"
    assert await engine.reap() == 0
    assert await events_of(engine, lease.job.job_id) == before


async def test_only_finish_writes_a_terminal_event_and_only_as_the_last(engine: Engine) -> None:
    lease = await start(engine)
    before = await events_of(engine, lease.job.job_id)
    with pytest.raises(ValueError, match="terminal"):
        await lease.append([complete()])
    for events in ([], [output("a")], [complete(), output("a")], [complete(), complete()]):
        with pytest.raises(ValueError, match="terminal"):
            await lease.finish(events)
    assert await events_of(engine, lease.job.job_id) == before
    assert await lease.finish([complete()])


async def test_there_is_one_terminal_event_whatever_races(bench: Bench) -> None:
    chance = random.Random(20)
    engine = await bench.make(lease_s=10.0)
    outcomes = set()
    for _ in range(1000):
        [job_id] = await submit(engine, "")
        lease = await claim_one(engine)
        acts: list[Callable[[], Awaitable[object]]] = [
            partial(engine.cancel, job_id),
            partial(engine.cancel, job_id),
            partial(lease.finish, [output("end"), complete()]),
            partial(lease.finish, [output("end"), complete()]),
            partial(_write_some, lease),
            partial(_write_some, lease),
            partial(_lose, engine, bench),
        ]
        await asyncio.gather(*(_after(chance.randrange(4), act) for act in chance.sample(acts, 4)))
        if await engine.cancel(job_id) == "requested":
            await lease.finish([complete("cancelled")])
        events = await events_of(engine, job_id)
        assert events[-1].kind in TERMINAL_KINDS
        outcomes.add(getattr(events[-1].data, "reason", events[-1].kind))
        with pytest.raises(LeaseLost):
            await lease.append([output("late")])
        assert await events_of(engine, job_id) == events
    assert outcomes == {"exited", "cancelled", "error"}, "the runs met every end"
    stats = await engine.stats()
    assert (stats.waiting, stats.running, stats.oldest_wait_s) == (0, 0, 0.0)


async def _after(turns: int, act: Callable[[], Awaitable[object]]) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    with contextlib.suppress(LeaseLost):  # correct for a writer that came too late
        await act()


async def _write_some(lease: Lease) -> None:
    for number in range(3):
        await lease.append([output(str(number))])
        await asyncio.sleep(0)


async def _lose(engine: Engine, bench: Bench) -> None:
    await bench.pass_time(11.0)
    await asyncio.sleep(0)
    await engine.reap()


async def test_the_shutdown_races_with_the_end_of_jobs(bench: Bench) -> None:
    chance = random.Random(7)
    for _ in range(100):
        engine = await bench.make()
        job_ids = await submit(engine, *"abcdef")
        readers = [asyncio.create_task(follow(engine, job_id)) for job_id in job_ids]
        await asyncio.sleep(0)
        leases = await engine.claim("worker", 4, ACCEPTS)
        acts: list[Callable[[], Awaitable[object]]] = [
            *(partial(lease.finish, [complete()]) for lease in leases),
            *(partial(engine.cancel, job_id) for job_id in job_ids),
            engine.drain,
            engine.close,
        ]
        await asyncio.gather(*(_after(chance.randrange(3), act) for act in acts))
        for events in await asyncio.gather(*readers):
            assert [event.kind in TERMINAL_KINDS for event in events].count(True) == 1
            assert events[-1].kind in TERMINAL_KINDS


async def test_a_lost_worker_is_reported_and_fenced(engine: Engine, bench: Bench) -> None:
    lease = await start(engine)
    control = lease.control()
    waiting = asyncio.ensure_future(anext(control))
    await asyncio.sleep(0)
    await bench.pass_time(14.9)
    assert await engine.reap() == 0
    await bench.pass_time(0.2)
    assert await engine.reap() == 1
    assert await waiting == Lost()
    assert [item async for item in control] == []
    with pytest.raises(LeaseLost):
        await lease.append([output("from the dead")])
    assert not await lease.finish([complete()])
    last = (await events_of(engine, lease.job.job_id))[-1]
    assert isinstance(last.data, Error)
    assert last.data.code == "worker_lost"
    view = await engine.summary(lease.job.job_id)
    assert view is not None
    assert (view.state, view.result) == ("error", last.data)
    assert await engine.reap() == 0


async def test_heartbeats_keep_a_lease_and_do_not_bring_one_back(
    engine: Engine, bench: Bench
) -> None:
    await submit(engine, "", "")
    kept, lost = await engine.claim("worker", 2, ACCEPTS)
    assert 0 < engine.heartbeat_s <= 5.0
    for _ in range(10):
        await bench.pass_time(engine.heartbeat_s)
        await engine.heartbeat([kept])
        await engine.reap()
    await engine.heartbeat([kept, lost])
    await kept.append([output("alive")])
    with pytest.raises(LeaseLost):
        await lost.append([output("dead")])


async def test_a_finished_job_expires_with_all_that_belongs_to_it(
    engine: Engine, bench: Bench
) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    await bench.pass_time(10_000)
    await engine.heartbeat([lease])
    async with engine.follow(job_id) as log:
        await lease.finish([complete()])
        await bench.pass_time(599)
        assert await engine.summary(job_id) is not None
        await bench.pass_time(2)
        assert await engine.summary(job_id) is None
        events = [event async for event in log.events()]
        assert events[-1].kind == "complete", "who has the log reads it to its end"
    with pytest.raises(UnknownJob):
        await events_of(engine, job_id)
    with pytest.raises(UnknownJob):
        await engine.purge(job_id)
    assert await engine.cancel(job_id) == "unknown"
    assert await engine.jobs(tenant="") == ()
    stats = await engine.stats()
    assert (stats.logs, stats.log_bytes) == (0, 0)


async def test_a_job_is_purged_once_it_is_over(engine: Engine) -> None:
    [job_id] = await submit(engine, "")
    assert not await engine.purge(job_id)
    lease = await claim_one(engine)
    assert not await engine.purge(job_id)
    await lease.finish([complete()])
    assert await engine.purge(job_id)
    with pytest.raises(UnknownJob):
        await engine.purge(job_id)
    with pytest.raises(UnknownJob):
        await events_of(engine, job_id)
    assert (await engine.stats()).logs == 0


async def test_a_view_begins_where_its_reader_is(engine: Engine) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    for number in range(10):
        await lease.append([output(f"{number}\n")])
    events = await events_of(engine, job_id)
    for after in range(len(events) + 1):
        async with engine.follow(job_id, after) as log:
            assert log.last_id == len(events), "all that was appended before is there"
            assert [event async for event in log.entries(after)] == events[after:]
    async with engine.follow(job_id, len(events)) as log:
        await lease.append([output("new")])
        assert await log.wait(len(events))
        assert [event.id async for event in log.entries(len(events))] == [len(events) + 1]


async def test_a_view_after_an_unknown_number_has_everything(engine: Engine) -> None:
    lease = await start(engine)
    await lease.append([output("a")])
    events = await events_of(engine, lease.job.job_id)
    async with engine.follow(lease.job.job_id, 10**12) as log:
        assert log.last_id == len(events)
        assert [event async for event in log.entries()] == events


async def test_a_view_of_a_job_that_is_over_knows_its_end(engine: Engine) -> None:
    lease = await start(engine)
    await lease.finish([output("a"), complete()])
    last = (await events_of(engine, lease.job.job_id))[-1]
    for after in (0, 1, last.id, 10**12):
        async with engine.follow(lease.job.job_id, after) as log:
            assert (log.done, log.last_id, log.end) == (True, last.id, last.data)


async def test_a_view_is_of_a_job_that_there_is(engine: Engine) -> None:
    with pytest.raises(UnknownJob, match="'nobody'"):
        async with engine.follow("nobody"):
            raise AssertionError


async def test_a_summary_has_nothing_large(engine: Engine) -> None:
    job = replace(
        make_job(),
        files=(SourceFile("main.py", b"secret"),),
        stdin=b"secret",
        env={"TOKEN": "secret"},
        metadata={"k": "v"},
        preset="strict",
    )
    await engine.submit(job, tenant="a")
    for view in (await engine.summary(job.job_id), *await engine.jobs(tenant="a")):
        assert view is not None
        assert view.job == job.facts
        assert (view.job.metadata, view.job.preset, view.job.policy) == ({"k": "v"}, "strict", None)
        assert "secret" not in repr(view)


async def test_the_policy_is_that_of_the_worker(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    lease = await claim_one(engine)
    await lease.state("preparing", "digest")
    await lease.state("running")
    for _ in range(2):
        view = await engine.summary(job_id)
        assert view is not None
        assert view.job.policy == "digest"
        await lease.finish([complete()])


async def test_a_heartbeat_is_told_what_became_of_the_leases(engine: Engine, bench: Bench) -> None:
    await submit(engine, *"abcd")
    kept, cancelled, over, lost = await engine.claim("worker", 4, ACCEPTS)
    assert await engine.heartbeat([kept, cancelled, over, lost]) == []
    await engine.cancel(cancelled.job.job_id)
    await over.finish([complete()])
    await bench.pass_time(10)
    told = await engine.heartbeat([kept, cancelled])
    assert list(told) == [(cancelled, Cancel())]
    await bench.pass_time(10)
    assert await engine.reap() == 1
    told = await engine.heartbeat([kept, cancelled, over, lost])
    assert list(told) == [(cancelled, Cancel()), (over, Lost()), (lost, Lost())]


def capabilities(*backends: str) -> Capabilities:
    return Capabilities(
        {name: BackendFacts("namespaces") for name in backends},
        default=backends[0],
        languages=frozenset({"python"}),
        missing={"c": "no compiler"},
        processors=2,
        places=4,
    )


async def test_what_workers_publish_is_told_until_they_are_gone(engine: Engine) -> None:
    assert list(await engine.capabilities()) == []
    one, other = capabilities("bwrap"), capabilities("bwrap", "plain")
    await engine.publish("one", one)
    assert list(await engine.capabilities()) == [one]
    await engine.publish("other", one)
    await engine.publish("other", other)
    published = await engine.capabilities()
    assert len(published) == 2
    assert one in published
    assert other in published
    await engine.publish("one", None)
    assert list(await engine.capabilities()) == [other]
    await engine.publish("one", None)


async def test_every_job_that_is_over_is_heard_of_once(bench: Bench) -> None:
    heard: list[JobView] = []
    engine = await bench.make()
    engine.listen(heard.append)
    finished = await start(engine, "a")
    await finished.append([output("x")])
    await finished.finish([complete()])
    await finished.finish([complete()])
    [cancelled] = await submit(engine, "b")
    await engine.cancel(cancelled)
    await engine.cancel(cancelled)
    lost = await start(engine)
    await bench.pass_time(20)
    await engine.reap()
    await engine.reap()
    running = await start(engine)
    [queued] = await submit(engine, "c")
    await engine.drain()
    await engine.close()
    await engine.close()
    assert [(view.job.job_id, view.tenant, view.state) for view in heard] == [
        (finished.job.job_id, "a", "complete"),
        (cancelled, "b", "complete"),
        (lost.job.job_id, "", "error"),
        (queued, "c", "error"),
        (running.job.job_id, "", "error"),
    ]
    assert isinstance(heard[1].result, Complete)
    assert heard[0].first_output_at is not None
    assert None not in {view.finished_at for view in heard}


async def test_a_secret_is_random_and_the_same_for_all(bench: Bench) -> None:
    engine = await bench.make()
    secret = await engine.secret("a")
    assert len(secret) == SECRET_BYTES
    assert await engine.secret("a") == secret
    assert await engine.secret("b") != secret

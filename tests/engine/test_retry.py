"""The promises of every engine: jobs that are run again, and jobs that are given back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import msgspec
import pytest

from streamer.engine.interface import (
    Engine,
    Eof,
    Input,
    Lease,
    LeaseLost,
    Lost,
    Measure,
    Resize,
    Signal,
)
from streamer.model.capabilities import Accepts
from streamer.model.events import Complete, Error, Event, JobEvent, Status
from streamer.model.job import ResolvedJob, TerminalSize

from . import ACCEPTS, claim_one, complete, events_of, make_job, output, position, submit, texts
from .conftest import Bench
from .test_sessions import job_of, opened

T = TypeVar("T")


async def again(say: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call whose connection was lost, as a worker does."""
    while True:
        try:
            return await say()
        except ConnectionError:
            await asyncio.sleep(0)


def retried(times: int, **given: TerminalSize) -> ResolvedJob:
    return replace(make_job(**given), retry=times)  # type: ignore[arg-type]


async def started(engine: Engine, job: ResolvedJob) -> Lease:
    await engine.submit(job)
    lease = await claim_one(engine)
    await lease.state("preparing", "digest")
    await lease.state("running")
    return lease


def bare(event: Event) -> JobEvent:
    """Return an event without what is estimated."""
    if isinstance(event.data, Status):
        assert (event.data.estimated_wait_ms is None) == (event.data.position is None)
        return msgspec.structs.replace(event.data, estimated_wait_ms=None)
    return event.data


async def lose(engine: Engine, bench: Bench) -> None:
    await bench.pass_time(15.1)
    assert await engine.reap() == 1


async def give_back(engine: Engine, lease: Lease, *, ran: bool = False) -> None:
    """Release a job. Where the first answer is lost, the second is that nothing is held any more."""
    await lease.release(ran=ran)
    view = await engine.summary(lease.job.job_id)
    assert view is not None
    assert view.state == "queued"


async def test_a_job_waits_again_when_its_worker_is_lost(engine: Engine, bench: Bench) -> None:
    job = retried(2)
    lost = await started(engine, job)
    await lost.append([output("half ")])
    waiting = await submit(engine, "")
    control = lost.control()
    await lose(engine, bench)
    assert await again(lambda: anext(control)) == Lost()
    with pytest.raises(LeaseLost):
        await again(lambda: lost.append([output("from the dead")]))
    assert not await again(lambda: lost.finish([complete()]))
    assert not await again(lost.release)
    view = await engine.summary(job.job_id)
    assert view is not None
    assert (view.state, view.position, view.result) == ("queued", 1, None)
    assert (view.started_at, view.job.policy) == (None, None)
    assert await position(engine, waiting[0]) == 2
    stats = await engine.stats()
    assert (stats.waiting, stats.running) == (2, 0)
    assert (await engine.own_queue("")).running == 0

    lease = await claim_one(engine)
    assert (lease.job, lease.attempt, lost.attempt) == (job, 2, 1)
    await lease.state("running")
    await lease.append([output("whole")])
    assert await lease.finish([complete()])
    events = await events_of(engine, job.job_id)
    assert [event.kind for event in events] == [
        *("status", "status", "status", "output", "status", "status", "output", "complete")
    ]
    assert bare(events[4]) == Status("queued", t=15100, position=1, attempt=2, reason="worker_lost")
    assert texts(events) == "half whole"
    assert await engine.reap() == 0


async def test_a_job_is_run_again_as_often_as_its_caller_said(engine: Engine, bench: Bench) -> None:
    job = retried(3)
    await engine.submit(job)
    for attempt in (1, 2, 3, 4):
        lease = await claim_one(engine)
        assert lease.attempt == attempt
        await lease.state("running")
        await lose(engine, bench)
    last = (await events_of(engine, job.job_id))[-1].data
    assert isinstance(last, Error)
    assert last.code == "worker_lost"
    stats = await engine.stats()
    assert (stats.waiting, stats.running, stats.waiting_bytes) == (0, 0, 0)


async def test_the_end_of_one_that_is_cancelled_before_it_runs_again_has_its_attempt(
    engine: Engine, bench: Bench
) -> None:
    job = retried(2)
    for _ in range(2):
        await (await started(engine, job)).state("running")
        await lose(engine, bench)
    assert await engine.cancel(job.job_id) == "cancelled"
    last = (await events_of(engine, job.job_id))[-1].data
    assert isinstance(last, Complete)
    assert (last.reason, last.attempts) == ("cancelled", 3)
    first = retried(1)
    await engine.submit(first)
    assert await engine.cancel(first.job_id) == "cancelled"
    last = (await events_of(engine, first.job_id))[-1].data
    assert isinstance(last, Complete)
    assert last.attempts == 1


async def test_input_that_was_taken_is_not_there_again(engine: Engine, bench: Bench) -> None:
    job = retried(1)
    lease = await started(engine, job)
    await engine.send(job.job_id, Input(b"line"))
    await engine.send(job.job_id, Eof())
    inputs = lease.inputs()
    assert await again(lambda: anext(inputs)) == Input(b"line")
    await lose(engine, bench)
    assert (await events_of(engine, job.job_id))[-1].kind == "error"


async def test_the_end_of_input_is_there_again_if_there_was_no_input(
    engine: Engine, bench: Bench
) -> None:
    job = retried(2)
    lease = await started(engine, job)
    await engine.send(job.job_id, Eof())
    for attempt in (2, 3):
        inputs = lease.inputs()
        assert await again(lambda inputs=inputs: anext(inputs)) == Eof()  # type: ignore[misc]
        await lose(engine, bench)
        lease = await claim_one(engine)
        assert lease.attempt == attempt
        await lease.state("running")
    assert await engine.send(job.job_id, Input(b"late")) == "closed"
    assert [item async for item in lease.inputs()] == [Eof()]
    await lease.finish([complete()])


async def test_input_that_was_not_taken_is_there_again(engine: Engine, bench: Bench) -> None:
    job = retried(1, terminal=TerminalSize(80, 24))
    lease = await started(engine, job)
    await engine.send(job.job_id, Signal(10))
    await engine.send(job.job_id, Resize(132, 43))
    control = lease.control()
    taken = [await again(lambda: anext(control)), await again(lambda: anext(control))]
    assert taken == [Resize(132, 43), Signal(10)]
    await engine.send(job.job_id, Input(b"line"))
    await engine.send(job.job_id, Eof())
    await engine.send(job.job_id, Signal(12))
    await lose(engine, bench)
    lease = await claim_one(engine)
    await lease.state("running")
    assert [item async for item in lease.inputs()] == [Input(b"line"), Eof()]
    control = lease.control()
    taken = [await again(lambda: anext(control)), await again(lambda: anext(control))]
    assert taken == [Resize(132, 43), Signal(12)], "a terminal has its size, no signal comes twice"
    await lease.finish([complete()])


async def test_a_cancelled_job_is_not_run_again(engine: Engine, bench: Bench) -> None:
    job = retried(3)
    lease = await started(engine, job)
    assert await engine.cancel(job.job_id) == "requested"
    assert not await again(lambda: lease.release(ran=True))
    await lose(engine, bench)
    assert (await events_of(engine, job.job_id))[-1].kind == "error"
    waits = retried(3)
    await started(engine, waits)
    await lose(engine, bench)
    assert await engine.cancel(waits.job_id) == "cancelled"
    last = (await events_of(engine, waits.job_id))[-1].data
    assert isinstance(last, Complete)
    assert last.reason == "cancelled"
    stats = await engine.stats()
    assert (stats.waiting, stats.waiting_bytes) == (0, 0)


async def test_a_job_that_has_not_begun_is_given_back(engine: Engine) -> None:
    job = make_job()
    await engine.submit(job)
    [later] = await submit(engine, "")
    for _ in range(2):
        lease = await claim_one(engine)
        assert (lease.job, lease.attempt) == (job, 1)
        await lease.state("preparing", "digest")
        await give_back(engine, lease)
        with pytest.raises(LeaseLost):
            await lease.state("running")
        assert [item async for item in lease.control()] == [Lost()]
    assert [await position(engine, one) for one in (job.job_id, later)] == [1, 2]
    told = [bare(event) for event in await events_of(engine, job.job_id)]
    assert told.count(Status("queued", t=0, position=1, reason="shutting_down")) == 2
    lease = await claim_one(engine)
    await lease.state("running")
    assert not await lease.release(), "its program may have done something"
    assert not await lease.release(ran=True), "its caller did not say that it may run again"
    await lease.append([output("x")])
    assert await lease.finish([complete()])
    assert not await lease.release()


async def test_a_job_that_has_run_is_given_back_if_it_may_run_again(engine: Engine) -> None:
    job = retried(1)
    lease = await started(engine, job)
    assert not await lease.release()
    await give_back(engine, lease, ran=True)
    lease = await claim_one(engine)
    assert lease.attempt == 2
    await lease.state("running")
    assert not await lease.release(ran=True), "it was run as often as it may be"
    assert await lease.finish([complete()])
    told = [bare(event) for event in await events_of(engine, job.job_id)]
    assert Status("queued", t=0, position=1, attempt=2, reason="shutting_down") in told


async def test_no_job_is_given_back_if_nobody_takes_it(engine: Engine) -> None:
    job = retried(1)
    await engine.submit(job)
    lease = await claim_one(engine)
    await lease.state("preparing")
    await engine.drain()
    assert not await lease.release()
    await lease.state("running")
    assert not await lease.release(ran=True)
    assert await lease.finish([complete()])


async def test_no_job_of_a_session_is_given_back(engine: Engine) -> None:
    session_id = await opened(engine)
    job = replace(job_of(session_id), retry=1)
    await engine.submit(job)
    [lease] = await engine.claim("w", 1)
    assert not await lease.release()
    await lease.state("running")
    assert not await lease.release(ran=True)
    assert await lease.finish([complete()])


async def test_what_is_measured_of_a_job_is_asked_for_anew(engine: Engine, bench: Bench) -> None:
    job = retried(1)
    lease = await started(engine, job)
    await engine.send(job.job_id, Measure())
    control = lease.control()
    assert await again(lambda: anext(control)) == Measure()
    await lose(engine, bench)
    lease = await claim_one(engine)
    await lease.state("running")
    await engine.send(job.job_id, Measure())
    control = lease.control()
    assert await again(lambda: anext(control)) == Measure()
    await lease.finish([complete()])


async def test_a_job_that_waits_again_has_the_place_that_it_had(
    engine: Engine, bench: Bench
) -> None:
    job = replace(retried(1), priority=1)
    lease = await started(engine, job)
    await engine.submit(low := replace(make_job(), priority=0))
    await engine.submit(same := replace(make_job(), priority=1))
    await engine.submit(high := replace(make_job(), priority=2))
    await lose(engine, bench)
    leases = await engine.claim("worker", 4, ACCEPTS)
    assert [lease.job for lease in leases] == [high, job, same, low]
    for lease in leases:
        await lease.finish([complete()])


@pytest.mark.parametrize("together", [True, False])
async def test_jobs_that_wait_again_keep_their_order(
    engine: Engine, bench: Bench, *, together: bool
) -> None:
    jobs = [retried(1) for _ in range(4)]
    for job in jobs[:3]:
        await engine.submit(job)
    leases = [await claim_one(engine) for _ in range(3)]
    await engine.submit(jobs[3])
    if together:
        await bench.pass_time(15.1)
        assert await engine.reap() == 3
    else:
        for number in (1, 0, 2):
            await give_back(engine, leases[number])
    assert [await position(engine, job.job_id) for job in jobs] == [1, 2, 3, 4]
    assert [(await claim_one(engine)).job for _ in jobs] == jobs


async def test_the_log_of_a_job_that_waits_again_is_bounded(bench: Bench) -> None:
    engine = await bench.make(retention_bytes=256 * 1024)
    job = retried(1)
    lease = await started(engine, job)
    await lease.append([output("x" * 200_000)])
    await lose(engine, bench)
    await engine.submit(replace(make_job(), language="bash"))
    only_bash = Accepts(ACCEPTS.backends, frozenset({"bash"}))
    [other] = await engine.claim("worker", 1, only_bash)
    for _ in range(10):
        await other.append([output("y" * 20_000)])
    stats = await engine.stats()
    assert stats.waiting == 1
    assert stats.log_bytes <= 256 * 1024
    await other.finish([complete()])

"""The promises of every engine: what a job uses reaches those who listen, and nobody else."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack

import pytest

from streamer.engine.interface import Engine, Lease, LeaseLost, Measure, Signal
from streamer.errors import UnknownJob
from streamer.jobs.usage import UsageFeeds

from . import claim_one, complete, events_of, start, submit


async def told_until_heard(lease: Lease, *heard: deque[bytes]) -> None:
    """Tell what the job uses until each listener has heard of it: some of it may be lost."""
    async with asyncio.timeout(20):
        number = 0
        while not all(heard):
            number += 1
            assert await lease.tell_usage(b'{"t":%d}' % number)
            for _ in range(100):  # turns, in which it may arrive
                await asyncio.sleep(0)


async def test_it_is_told_to_all_who_listen(engine: Engine) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    heard: list[deque[bytes]] = [deque(), deque()]
    async with engine.usage(job_id, heard[0].append):
        async with engine.usage(job_id, heard[1].append):
            await told_until_heard(lease, *heard)
        heard[0].clear()
        left = len(heard[1])
        await told_until_heard(lease, heard[0])
        assert len(heard[1]) == left
    assert heard[0][-1].startswith(b'{"t":')
    assert not await lease.tell_usage(b"{}")


async def test_only_the_newest_is_kept_for_readers(engine: Engine) -> None:
    lease = await start(engine)
    feeds = UsageFeeds(engine)
    async with feeds.follow(lease.job.job_id) as log, asyncio.timeout(20):
        while log.last_id < 50:
            await lease.tell_usage(b"{}")
            await asyncio.sleep(0)
        assert log.first_id == log.last_id
    assert len(feeds) == 0


async def test_it_is_in_no_log(engine: Engine) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    before = await events_of(engine, job_id)
    heard: deque[bytes] = deque()
    async with engine.usage(job_id, heard.append):
        await told_until_heard(lease, heard)
    assert await events_of(engine, job_id) == before
    assert await lease.finish([complete()])
    assert len(await events_of(engine, job_id)) == len(before) + 1


async def test_its_worker_is_asked_once_the_job_runs(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    for _ in range(3):
        assert await engine.send(job_id, Measure()) == "accepted"
    lease = await claim_one(engine)
    control = lease.control()
    waiting = asyncio.ensure_future(anext(control))
    await lease.state("preparing")
    await asyncio.sleep(0)
    assert not waiting.done()
    await lease.state("running")
    assert await waiting == Measure()
    waiting = asyncio.ensure_future(anext(control))
    assert await engine.send(job_id, Signal(2)) == "accepted"
    assert await waiting == Signal(2), "only the last question matters"
    waiting = asyncio.ensure_future(anext(control))
    assert await engine.send(job_id, Measure()) == "accepted"
    assert await waiting == Measure()


async def test_a_job_that_is_over_is_not_measured(engine: Engine) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(engine.usage(job_id, lambda _: None))
        assert await lease.finish([complete()])
        assert await engine.send(job_id, Measure()) == "closed"
        with pytest.raises(LeaseLost):
            await lease.tell_usage(b"{}")
    async with engine.usage(job_id, lambda _: None):
        pass


async def test_there_is_nothing_to_hear_of_an_unknown_job(engine: Engine) -> None:
    with pytest.raises(UnknownJob):
        async with engine.usage("nothing", lambda _: None):
            pass
    with pytest.raises(UnknownJob):
        await engine.send("nothing", Measure())

"""The one estimate of how long a job waits: for /api/queue, and for Retry-After."""

from __future__ import annotations

import pytest

from streamer.engine.interface import Engine
from streamer.errors import Busy

from . import claim_one, complete, submit
from .conftest import Bench


async def estimate(engine: Engine) -> float:
    return (await engine.stats()).estimated_wait_s


async def test_five_jobs_of_four_seconds_at_one_place_are_twenty_seconds(bench: Bench) -> None:
    engine = await bench.make(places=1, max_waiting=4)
    await submit(engine, *"a" * 2)
    assert await estimate(engine) == 0, "a place is free"
    first = await claim_one(engine)
    await bench.pass_time(4)
    await first.finish([complete()])
    await claim_one(engine)
    await submit(engine, *"a" * 4)
    assert await estimate(engine) == 20
    with pytest.raises(Busy) as refused:
        await submit(engine, "a")
    assert refused.value.retry_after_s == 4, "then one more has left the queue"


async def test_more_places_are_a_shorter_wait(bench: Bench) -> None:
    engine = await bench.make(places=2)
    for seconds in (3, 5):
        await submit(engine, "a")
        lease = await claim_one(engine)
        await bench.pass_time(seconds)
        await lease.finish([complete()])
    await submit(engine, *"a" * 5)
    assert len(await engine.claim("worker", 2)) == 2
    assert await estimate(engine) == 8, "four jobs of four seconds at two places"


async def test_before_any_job_has_ended_those_that_run_tell_the_pace(bench: Bench) -> None:
    engine = await bench.make(places=1)
    await submit(engine, *"aa")
    await claim_one(engine)
    assert await estimate(engine) == 0
    await bench.pass_time(30)
    assert await estimate(engine) == 60


async def test_the_estimate_follows_a_change(bench: Bench) -> None:
    engine = await bench.make(places=1)
    for seconds in [100] * 10 + [1] * 64:
        await submit(engine, "a")
        lease = await claim_one(engine)
        await bench.pass_time(seconds)
        await lease.finish([complete()])
    await submit(engine, "a")
    await claim_one(engine)
    assert await estimate(engine) == 1


async def test_a_tenant_over_its_share_waits_for_a_turn_of_each_other(bench: Bench) -> None:
    engine = await bench.make(places=1, max_waiting_per_client=3)
    await submit(engine, "a")
    lease = await claim_one(engine)
    await bench.pass_time(2)
    await lease.finish([complete()])
    await submit(engine, "a")
    await claim_one(engine)
    await submit(engine, *"aaabbb")
    with pytest.raises(Busy) as refused:
        await submit(engine, "a")
    assert (refused.value.code, refused.value.retry_after_s) == ("rate_limited", 8)
    await submit(engine, "c")
    await bench.pass_time(100_000)
    with pytest.raises(Busy) as refused:
        await submit(engine, "a")
    assert refused.value.retry_after_s == 60, "nobody should wait for longer than that"

"""The promises of `streamer.engine.webhooks` for every engine."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from streamer.engine.interface import Engine
from streamer.engine.webhooks import MOST_RESULT_BYTES, Delivery
from streamer.engine.weight import webhook_weight
from streamer.errors import Busy, RateLimited
from streamer.model.events import Complete, Error, encode
from streamer.model.job import ResolvedJob
from streamer.model.webhook import Webhook, WebhookView

from . import claim_one, complete, make_job
from .conftest import Bench


def hooked(place: str = "example.org:443", *events: str) -> ResolvedJob:
    """Return a job whose end is told to a place."""
    url = f"https://{place}/{'x' * 40}"
    webhook = Webhook(url, events or ("complete", "error"), place)  # type: ignore[arg-type]
    return replace(make_job(), webhook=webhook)


async def ended(engine: Engine, job: ResolvedJob, tenant: str = "") -> str:
    """Submit a job and end it; no other may wait."""
    await engine.submit(job, tenant=tenant)
    lease = await claim_one(engine)
    assert await lease.finish([complete()])
    return job.job_id


async def claimed(engine: Engine, free: int = 100) -> list[Delivery]:
    return list((await engine.webhooks.claim(free)).deliveries)


async def shown(engine: Engine, job_id: str) -> WebhookView | None:
    view = await engine.summary(job_id)
    assert view is not None
    return view.webhook


async def test_the_end_of_a_job_is_there_to_be_told_with_it(engine: Engine) -> None:
    job = hooked()
    await engine.submit(job, tenant="ann")
    assert await shown(engine, job.job_id) == WebhookView("waiting")
    assert await claimed(engine) == []
    lease = await claim_one(engine)
    assert (await engine.stats()).webhooks == 1
    await lease.finish([complete()])
    view = await shown(engine, job.job_id)
    assert view is not None
    assert (view.state, view.attempts, view.last_error) == ("pending", 0, None)
    (delivery,) = await claimed(engine)
    assert job.webhook is not None
    assert (delivery.url, delivery.attempt) == (job.webhook.url, 1)
    told = delivery.job
    assert (told.job.job_id, told.tenant, told.state) == (job.job_id, "ann", "complete")
    assert isinstance(told.result, Complete)
    assert told.finished_at is not None
    await engine.webhooks.delivered(delivery)
    await engine.webhooks.delivered(delivery)
    assert await shown(engine, job.job_id) == WebhookView("delivered", 1)
    assert (await engine.stats()).webhooks == 0


async def test_however_a_job_ends_it_is_told(engine: Engine, bench: Bench) -> None:
    jobs = {name: hooked() for name in ("cancelled", "lost", "drained", "failed")}
    await engine.submit(jobs["lost"])
    await claim_one(engine)
    await engine.submit(jobs["cancelled"])
    assert await engine.cancel(jobs["cancelled"].job_id) == "cancelled"
    await engine.submit(jobs["failed"])
    lease = await claim_one(engine)
    await bench.pass_time(10)
    await engine.heartbeat([lease])
    await lease.finish([encode(Error("sandbox_error", "it broke"))])
    await bench.pass_time(10)
    assert await engine.reap() == 1
    await engine.submit(jobs["drained"])
    await engine.drain()
    found = {one.job.job.job_id: one.job.result for one in await claimed(engine)}
    ends = {name: found.pop(job.job_id) for name, job in jobs.items()}
    assert found == {}
    assert isinstance(ends["cancelled"], Complete)
    codes = {name: end.code for name, end in ends.items() if isinstance(end, Error)}
    assert codes == {"lost": "worker_lost", "drained": "shutting_down", "failed": "sandbox_error"}


async def test_only_the_events_that_were_asked_for_are_told(engine: Engine) -> None:
    job_id = await ended(engine, hooked("example.org:443", "error"))
    assert await shown(engine, job_id) == WebhookView("unwanted")
    assert await claimed(engine) == []
    assert (await engine.stats()).webhooks == 0
    await ended(engine, hooked("example.org:443", "complete"))
    assert len(await claimed(engine)) == 1


async def test_what_failed_is_due_after_its_pause(engine: Engine, bench: Bench) -> None:
    job_id = await ended(engine, hooked())
    (delivery,) = await claimed(engine)
    await engine.webhooks.failed(delivery, "the receiver answered 500", 60.0)
    view = await shown(engine, job_id)
    assert view is not None
    assert (view.state, view.attempts) == ("pending", 1)
    assert view.last_error == "the receiver answered 500"
    due = await engine.webhooks.claim(9)
    assert list(due.deliveries) == []
    assert due.next_s is not None
    assert due.next_s <= 60
    await bench.pass_time(59.9)
    assert await claimed(engine) == []
    await bench.pass_time(0.2)
    (again,) = await claimed(engine)
    assert (again.attempt, again.job, again.url) == (2, delivery.job, delivery.url)
    await engine.webhooks.failed(delivery, "told too late", None)  # by who had it before
    await engine.webhooks.failed(again, "the receiver answered 410", None)
    assert await shown(engine, job_id) == WebhookView("failed", 2, "the receiver answered 410")
    assert (await engine.stats()).webhooks == 0
    assert (await engine.webhooks.claim(9)).next_s is None or not await claimed(engine)


async def test_what_its_holder_never_tells_of_is_claimed_again(
    engine: Engine, bench: Bench
) -> None:
    job_id = await ended(engine, hooked())
    (lost,) = await claimed(engine)
    await bench.pass_time(14.9)
    assert await claimed(engine) == []
    await bench.pass_time(0.2)
    (again,) = await claimed(engine)
    assert (again.attempt, again.job) == (2, lost.job)
    assert again.token != lost.token
    await engine.webhooks.delivered(lost)
    view = await shown(engine, job_id)
    assert view is not None
    assert view.state == "pending"
    await engine.webhooks.delivered(again)
    assert await shown(engine, job_id) == WebhookView("delivered", 2)


async def test_what_nobody_delivers_any_more_can_be_ended_without_an_attempt(
    engine: Engine, bench: Bench
) -> None:
    async def abandoned() -> list[Delivery]:
        return list((await engine.webhooks.claim(9, abandoned_s=60)).deliveries)

    job_id = await ended(engine, hooked())
    assert await abandoned() == []
    await bench.pass_time(59)
    assert await abandoned() == []
    (held,) = await claimed(engine)  # somebody delivers
    await engine.webhooks.failed(held, "no", 0.0)
    await bench.pass_time(59)
    assert await abandoned() == []
    await bench.pass_time(2)
    (one,) = await abandoned()
    assert await abandoned() == []
    await engine.webhooks.failed(one, "switched off", None)
    assert await shown(engine, job_id) == WebhookView("failed", 1, "switched off")
    await ended(engine, hooked())
    (one,) = await abandoned()
    await engine.webhooks.failed(one, "switched off", None)
    assert (await engine.stats()).webhooks == 0


async def test_it_outlives_the_record_of_its_job(engine: Engine, bench: Bench) -> None:
    job_id = await ended(engine, hooked())
    expired = await ended(engine, hooked())
    assert await engine.purge(job_id)
    await bench.pass_time(601)
    await engine.reap()
    assert await engine.summary(expired) is None
    found = await claimed(engine)
    assert {one.job.job.job_id for one in found} == {job_id, expired}
    for one in found:
        await engine.webhooks.failed(one, "no", 1.0)
        assert await engine.summary(one.job.job.job_id) is None, "nothing of it comes back"
    await bench.pass_time(2)
    for one in await claimed(engine):
        await engine.webhooks.delivered(one)
    assert (await engine.stats()).webhooks == 0


async def test_of_one_place_only_some_are_claimed_at_a_time(bench: Bench) -> None:
    engine = await bench.make(webhooks_of_place=2)
    for _ in range(5):
        await ended(engine, hooked("slow.example.org:443"))
    for _ in range(3):
        await ended(engine, hooked("quick.example.org:443"))
    first = await claimed(engine)
    assert sorted(one.url.split("/")[2] for one in first) == [
        *["quick.example.org:443"] * 2,
        *["slow.example.org:443"] * 2,
    ]
    assert await claimed(engine) == []
    quick = [one for one in first if "quick" in one.url]
    await engine.webhooks.delivered(quick[0])
    (third,) = await claimed(engine)
    assert "quick" in third.url
    for one in (quick[1], third):
        await engine.webhooks.delivered(one)
    assert await claimed(engine) == []
    await bench.pass_time(15.1)  # the slow ones are lost
    assert len(await claimed(engine)) == 2


async def test_tenants_take_turns_and_none_takes_all(bench: Bench) -> None:
    engine = await bench.make(webhooks_of_client=6)
    for number in range(10):
        await ended(engine, hooked(f"a{number}.example.org:443"), "ann")
    await ended(engine, hooked("b.example.org:443"), "ben")
    assert {one.job.tenant for one in await claimed(engine, 2)} == {"ann", "ben"}
    rest = await claimed(engine)
    assert [one.job.tenant for one in rest] == ["ann"] * 5
    await engine.webhooks.failed(rest[0], "no", 60.0)
    assert [one.job.tenant for one in await claimed(engine)] == ["ann"]


async def test_places_of_one_tenant_take_turns(engine: Engine) -> None:
    for number in (0, 0, 0, 1, 2):
        await ended(engine, hooked(f"host{number}.example.org:443"))
    places = [(await claimed(engine, 1))[0].url.split("/")[2][4] for _ in range(5)]
    assert sorted(places[:3]) == ["0", "1", "2"]
    assert places[3:] == ["0", "0"]


async def test_more_than_its_bounds_are_refused_at_the_submission(bench: Bench) -> None:
    engine = await bench.make(max_webhooks=3, max_webhooks_per_client=2)
    for _ in range(2):
        await ended(engine, hooked(), "ann")
    with pytest.raises(RateLimited):
        await engine.submit(hooked(), tenant="ann")
    await engine.submit(make_job(), tenant="ann")
    waiting = hooked()
    await engine.submit(waiting, tenant="ben")
    with pytest.raises(Busy) as refused:
        await engine.submit(hooked(), tenant="cyd")
    assert not isinstance(refused.value, RateLimited)
    for one in await claimed(engine):
        await engine.webhooks.delivered(one)
    await engine.submit(hooked(), tenant="ann")
    assert (await engine.stats()).webhooks == 2


async def test_their_size_is_bounded(bench: Bench) -> None:
    engine = await bench.make(max_webhook_bytes=webhook_weight(hooked()) * 2 + 100)
    for _ in range(2):
        await ended(engine, hooked())
    with pytest.raises(Busy):
        await engine.submit(hooked())
    for one in await claimed(engine):
        await engine.webhooks.failed(one, "no", None)
    await engine.submit(hooked())


async def test_a_large_result_is_left_to_its_job(engine: Engine) -> None:
    job = hooked()
    await engine.submit(job)
    lease = await claim_one(engine)
    await lease.finish([encode(Error("internal", "x" * MOST_RESULT_BYTES))])
    (delivery,) = await claimed(engine)
    assert (delivery.job.state, delivery.job.result) == ("error", None)


async def test_a_repeated_submission_has_one(engine: Engine) -> None:
    job = hooked()
    await engine.submit(job)
    await engine.submit(job)
    assert (await engine.stats()).webhooks == 1
    lease = await claim_one(engine)
    assert await lease.finish([complete()])
    await lease.finish([complete()])
    assert len(await claimed(engine)) == 1


async def test_the_bell_rings_for_what_can_be_claimed(engine: Engine) -> None:
    engine.webhooks.bell.clear()
    await ended(engine, hooked())
    async with asyncio.timeout(10):
        await engine.webhooks.bell.wait()
    (delivery,) = await claimed(engine)
    engine.webhooks.bell.clear()
    await engine.webhooks.failed(delivery, "no", 0.0)
    async with asyncio.timeout(10):
        await engine.webhooks.bell.wait()

"""Only of the memory engine: its bounds, its callback, its clock."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import logging
import os
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from streamer.engine.interface import Idempotency, JobView, Lease, LeaseLost, Signal
from streamer.engine.limits import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.inbox import Inbox
from streamer.engine.memory.lease import FRAMING_BYTES, MemoryLease
from streamer.engine.memory.places import Places
from streamer.engine.memory.retention import RetentionLimits
from streamer.engine.refusals import INBOX_BYTES, size_of
from streamer.engine.weight import weight_of
from streamer.errors import Busy, Conflict, Gone, UnknownJob
from streamer.eventlog.cursor import Cursor
from streamer.eventlog.frames import split_frames
from streamer.eventlog.joblog import JobLog
from streamer.eventlog.spool import Spool
from streamer.model.events import Event, Gap, Output

from . import claim_one, complete, events_of, make_job, output, start, submit

KIB = 1024


def make_engine(**options: object) -> MemoryEngine:
    settings = {
        "queue": options.pop("queue", QueueLimits(max_waiting=100)),
        "retention_s": 600.0,
        "retention": RetentionLimits(memory=options.pop("retention_bytes", 1024 * KIB)),  # type: ignore[arg-type]
    }
    return MemoryEngine(**{**settings, **options})  # type: ignore[arg-type]


async def started(engine: MemoryEngine) -> MemoryLease:
    """Return the lease of a job that runs, as what it is."""
    lease = await start(engine)
    assert isinstance(lease, MemoryLease)
    return lease


async def run_job(engine: MemoryEngine, size: int = 0, tenant: str = "") -> str:
    lease = await start(engine, tenant)
    await lease.append([output("x" * size)])
    await lease.finish([complete()])
    return lease.job.job_id


async def test_over_its_bytes_it_forgets_the_jobs_that_ended_first() -> None:
    engine = make_engine(retention_bytes=100 * KIB)
    job_ids = [await run_job(engine, 20 * KIB) for _ in range(10)]
    kept = [job_id for job_id in job_ids if await engine.summary(job_id) is not None]
    assert kept == job_ids[-4:], "four logs of 20 KiB with their records"
    assert (await engine.stats()).log_bytes <= 100 * KIB
    with pytest.raises(UnknownJob):
        await events_of(engine, job_ids[0])
    await engine.close()


async def test_it_forgets_nothing_that_runs_but_the_oldest_events_of_the_largest() -> None:
    engine = make_engine(retention_bytes=100 * KIB)
    finished = await run_job(engine, 1 * KIB)
    last = await run_job(engine, 1 * KIB)
    small, large = await start(engine), await start(engine)
    for number in range(10):
        await small.append([output(str(number))])
    for number in range(40):
        await large.append([output(f"{number:04}" + "x" * 4 * KIB)])
        assert (await engine.stats()).log_bytes <= 100 * KIB
    assert await engine.summary(finished) is None
    assert await engine.summary(last) is not None
    assert len(await events_of(engine, small.job.job_id)) == 12
    log = engine._table.get(large.job.job_id).log
    gap, *rest = [event async for event in _until_now(log)]
    assert gap.data == Gap(from_=1, to=log.first_id - 1)
    assert [event.id for event in rest] == list(range(log.first_id, 43))
    newest = rest[-1].data
    assert isinstance(newest, Output)
    assert newest.data.startswith("0039")
    await engine.close()


async def _until_now(log: JobLog) -> AsyncIterator[Event]:
    last = log.last_id
    async for event in log.events():
        yield event
        if event.id == last:
            return


async def test_a_job_larger_than_all_still_tells_its_end() -> None:
    engine = make_engine(retention_bytes=8 * KIB)
    job_id = await run_job(engine, 20 * KIB)
    log = engine._table.get(job_id).log
    assert [event.kind async for event in log.entries()] == ["gap", "complete"]
    assert (await engine.stats()).log_bytes == log.size_bytes
    await engine.close()


@pytest.mark.slow
async def test_it_does_not_grow_over_many_jobs() -> None:
    engine = make_engine(retention_bytes=512 * KIB)
    numbers = itertools.count()

    async def many(count: int) -> None:
        for _ in range(count):
            await run_job(engine, 100, tenant=f"tenant{next(numbers)}")

    await many(500)
    tracemalloc.start()
    try:
        await many(500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await many(2000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 128 * KIB, "2000 jobs more would be 5 MB"
    assert (await engine.stats()).logs < 200
    await engine.close()


async def lines(count: int) -> dict[str, int]:
    """Return how many lines some operations execute with this many finished jobs."""
    engine = make_engine(retention_bytes=10**9)
    for _ in range(count):
        await run_job(engine)

    async def last_page() -> None:
        assert await engine.jobs(tenant="", before=(0.0, "")) == ()

    async def none_on_disk() -> None:
        assert not engine._table.forget_oldest(on_disk=True)

    executed = Counter[str]()
    for ask in (last_page, none_on_disk):

        def trace(
            _frame: FrameType, event: str, _: object, name: str = ask.__name__
        ) -> Callable[..., Any]:
            executed[name] += event == "line"
            return trace

        sys.settrace(trace)
        try:
            await ask()
        finally:
            sys.settrace(None)
    await engine.close()
    return executed


async def test_what_is_looked_for_is_not_looked_for_in_every_job() -> None:
    few, many = await lines(250), await lines(4000)
    assert set(few) == {"last_page", "none_on_disk"}
    for name, executed in many.items():
        assert executed < 2 * few[name], name  # sixteen times as many jobs


async def test_the_oldest_with_events_on_disk_makes_room_there(tmp_path: Path) -> None:
    engine = make_engine(retention_bytes=10**9, spool=Spool(10**8, tmp_path))
    job_ids = [await run_job(engine, size * KIB) for size in (1, 200, 1, 200, 200)]
    table = engine._table
    for job_id in job_ids:
        record = table.get(job_id)
        await engine._retention._spill(record, record.log.spillable_bytes)
    table.get(job_ids[1]).log.drop(10**9)
    assert table.forget_oldest(on_disk=True)
    assert not table.forget_oldest(on_disk=True), "the newest stays"
    kept = [job_id for job_id in job_ids if await engine.summary(job_id) is not None]
    assert kept == [job_ids[0], job_ids[1], job_ids[2], job_ids[4]]
    await engine.close()


async def test_a_place_that_changes_all_the_time_does_not_fill_a_log() -> None:
    engine = make_engine(queue=QueueLimits(max_waiting=100))
    await submit(engine, "a")
    [last] = await submit(engine, "b")
    for _ in range(300):  # others come before it and go again
        others = await submit(engine, *"cdefg")
        Places(engine._table).tell()
        for job_id in others:
            await engine.cancel(job_id)
        record = engine._table.get(last)
        record.place = 50  # like a reader that was far behind
    assert engine._table.get(last).log.last_id <= 101
    await engine.close()


async def test_what_the_callback_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(view: JobView) -> None:
        raise LookupError(view.job.job_id)

    engine = make_engine()
    engine.listen(fail)
    with caplog.at_level(logging.ERROR):
        job_id = await run_job(engine)
    assert job_id in caplog.text
    assert "LookupError" in caplog.text
    assert (await events_of(engine, job_id))[-1].kind == "complete"
    assert (await engine.stats()).running == 0
    await engine.close()


async def test_times_come_from_the_clocks_it_was_given() -> None:
    now = 50.0
    engine = make_engine(clock=lambda: now, wall_clock=lambda: now + 1e9)
    [job_id] = await submit(engine, "a")
    now = 51.0
    lease = await claim_one(engine)
    assert lease.accepted_at == 50.0
    now = 52.5
    await lease.finish([complete()])
    view = await engine.summary(job_id)
    assert view is not None
    assert (view.created_at, view.started_at, view.finished_at) == (
        1e9 + 50.0,
        1e9 + 51.0,
        1e9 + 52.5,
    )
    await engine.close()


async def test_a_key_counts_longer_than_its_job_is_kept() -> None:
    now = 0.0
    engine = make_engine(clock=lambda: now, retention_s=10.0, idempotency_s=100.0)
    key = Idempotency("key", b"digest")
    first = await engine.submit(make_job(), tenant="a", idempotency=key)
    lease = await claim_one(engine)
    await lease.finish([complete()])
    now = 99.0
    assert await engine.summary(first.job_id) is None
    with pytest.raises(Gone):
        await engine.submit(make_job(), tenant="a", idempotency=key)
    with pytest.raises(Conflict):
        await engine.submit(make_job(), tenant="a", idempotency=Idempotency("key", b"other"))
    # Each tenant has its own keys, even if tenant and key joined are the same text.
    for tenant, text in (("b", "key"), ("", "akey"), ("ak", "ey")):
        other = Idempotency(text, b"digest")
        assert (await engine.submit(make_job(), tenant=tenant, idempotency=other)).created
    now = 100.0
    assert (await engine.submit(make_job(), tenant="a", idempotency=key)).created
    await engine.close()


async def test_a_key_of_a_purged_job_does_not_run_it_again() -> None:
    engine = make_engine(idempotency_s=100.0)
    key = Idempotency("key", b"digest")
    first = await engine.submit(make_job(), idempotency=key)
    await (await claim_one(engine)).finish([complete()])
    assert await engine.purge(first.job_id)
    with pytest.raises(Gone):
        await engine.submit(make_job(), idempotency=key)
    await engine.close()


async def test_no_more_keys_are_remembered_than_configured() -> None:
    engine = make_engine(idempotency_s=100.0, max_idempotency_keys=3)
    keys = [Idempotency(str(number), b"digest") for number in range(5)]
    for key in keys:
        job = await engine.submit(make_job(), idempotency=key)
        await (await claim_one(engine)).finish([complete()])
        assert await engine.purge(job.job_id)
    for key in keys[2:]:
        with pytest.raises(Gone):
            await engine.submit(make_job(), idempotency=key)
    for key in keys[:2]:
        assert (await engine.submit(make_job(), idempotency=key)).created
    await engine.close()


async def test_nobody_can_have_the_keys_of_others_forgotten() -> None:
    engine = make_engine(idempotency_s=100.0, max_idempotency_keys=6)

    async def ran(tenant: str, key: str) -> None:
        submitted = await engine.submit(
            make_job(), tenant=tenant, idempotency=Idempotency(key, b"digest")
        )
        assert submitted.created
        await (await claim_one(engine)).finish([complete()])
        assert await engine.purge(submitted.job_id)

    for number in range(3):
        await ran("b", f"k{number}")
    for number in range(20):
        await ran("a", f"k{number}")
    # All keys of the others are known, and the newest of this tenant that fit beside them.
    for tenant, numbers in (("b", range(3)), ("a", range(17, 20))):
        for number in numbers:
            again = Idempotency(f"k{number}", b"digest")
            with pytest.raises(Gone):
                await engine.submit(make_job(), tenant=tenant, idempotency=again)
    await ran("a", "k16")
    await engine.close()


async def test_jobs_keep_their_order_when_the_clock_is_set_back() -> None:
    today = 1e9
    engine = make_engine(wall_clock=lambda: today)
    first = await submit(engine, "a", "a")
    today -= 3600
    second = await submit(engine, "a", "a")
    views = await engine.jobs(tenant="a")
    assert [view.job.job_id for view in views] == [*first, *second][::-1]
    times = [view.created_at for view in views]
    assert sorted(set(times), reverse=True) == times
    page = await engine.jobs(tenant="a", before=(times[1], second[0]))
    assert [view.job.job_id for view in page] == first[::-1]
    await engine.close()


async def test_the_same_end_once_more_is_answered_as_the_first_one() -> None:
    """As of a worker that could not wait for the answer."""
    engine = make_engine()
    lease = await started(engine)
    last = [output("x"), complete()]
    assert await lease.finish(last)
    assert await lease.finish(last)
    assert lease.finish_now(last)
    assert not await lease.finish([complete()]), "another"
    assert [event.kind for event in await events_of(engine, lease.job.job_id)][-2:] == [
        "output",
        "complete",
    ]
    await engine.close()


async def test_an_engine_that_is_dropped_with_unfinished_jobs_warns() -> None:
    with pytest.warns(ResourceWarning, match="unclosed"):
        await submit(make_engine(), "a")
    make_engine()  # nobody waits for this one


async def test_close_wakes_a_worker_that_waits() -> None:
    engine = make_engine()
    claiming = asyncio.create_task(engine.claim("worker", 1))
    await asyncio.sleep(0)
    await engine.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert claiming.done()
    assert len(claiming.result()) == 0


async def test_at_the_bound_of_the_disk_jobs_go_one_by_one(tmp_path: Path) -> None:
    """A long job with events everywhere on the disk must not take the history of all with it."""
    engine = make_engine(
        retention=RetentionLimits(memory=512 * KIB, log_memory=128 * KIB),
        spool=Spool(4096 * KIB, tmp_path),
    )
    long = await start(engine)
    kept: list[int] = []
    for _ in range(150):
        await long.append([output("x" * 8000) for _ in range(2)])
        await run_job(engine, 60_000)
        kept.append((await engine.stats()).logs)
    losses = [before - after for before, after in itertools.pairwise(kept)]
    assert max(losses) <= 4, kept
    assert max(kept) > 40, "and that is what the disk has room for"
    stats = await engine.stats()
    assert stats.disk_bytes > 3000 * KIB, "the room is used"
    assert len(await events_of(engine, long.job.job_id)) == 2 + 300
    await engine.close()


class Failing:
    """The module `os` for a disk that can be read but no longer written."""

    def __getattr__(self, name: str) -> Any:
        return self._fail if name == "pwritev" else getattr(os, name)

    def _fail(self, *_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_a_disk_that_fails_costs_no_job_whose_events_it_still_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(
        retention=RetentionLimits(memory=512 * KIB, log_memory=128 * KIB),
        spool=Spool(4096 * KIB, tmp_path),
    )
    on_disk = [await run_job(engine, 60_000) for _ in range(20)]
    flood = await start(engine)
    await flood.append([output("x" * 200_000)])
    in_memory = [job_id for job_id in on_disk if not engine._table.get(job_id).log.disk_bytes]
    on_disk = [job_id for job_id in on_disk if job_id not in in_memory]
    assert len(on_disk) > 10
    monkeypatch.setattr("streamer.eventlog.spool.os", Failing())
    for _ in range(100):
        await flood.append([output("x" * 8000) for _ in range(2)])
        assert (await engine.stats()).log_bytes <= 512 * KIB
    later = [await run_job(engine, 60_000) for _ in range(20)]
    for job_id in on_disk:
        assert [event.kind for event in await events_of(engine, job_id)][-2:] == [
            "output",
            "complete",
        ]
    log = engine._table.get(flood.job.job_id).log
    assert [event.id async for event in log.entries()][-1] == log.last_id
    assert await engine.summary(later[0]) is None, "jobs without events on disk make room"
    assert await engine.summary(later[-1]) is not None
    assert caplog.text.count("cannot be kept on disk") == 1
    await flood.finish([complete()])
    await engine.close()


class Hanging:
    """The module `os` for a disk that answers no write before it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwritev(self, fd: int, parts: list[memoryview], at: int) -> int:
        self.answers.wait(60)
        return os.pwritev(fd, parts, at)


async def test_a_disk_that_hangs_holds_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs wait for each other's turn to write there."""
    engine = make_engine(
        retention=RetentionLimits(memory=512 * KIB, log_memory=128 * KIB),
        spool=Spool(4096 * KIB, tmp_path),
    )
    leases = [await start(engine) for _ in range(4)]

    async def write(lease: Lease) -> None:
        for _ in range(40):
            await lease.append([output("x" * 8000)])

    monkeypatch.setattr("streamer.eventlog.spool.WRITE_S", 0.1)
    monkeypatch.setattr("streamer.eventlog.spool.os", disk := Hanging())
    async with asyncio.timeout(30):
        await asyncio.gather(*map(write, leases))
    stats = await engine.stats()
    assert (stats.disk_bytes, stats.log_bytes <= 512 * KIB) == (0, True)
    disk.answers.set()
    async with asyncio.timeout(30):
        while not (await engine.stats()).disk_bytes:
            await leases[0].append([output("x" * 8000)])
            await asyncio.sleep(0)
    assert caplog.text.count("cannot be kept on disk") == 1
    for lease in leases:
        await lease.finish([complete()])
        log = engine._table.get(lease.job.job_id).log
        assert [event.kind async for event in log.entries()][-1] == "complete"
    await engine.close()


async def test_a_reader_that_takes_its_time_costs_no_other_job(tmp_path: Path) -> None:
    """A reader of a deleted job's log gets a gap when there is no room for it."""
    engine = make_engine(
        retention=RetentionLimits(memory=512 * KIB, log_memory=128 * KIB),
        spool=Spool(4096 * KIB, tmp_path),
    )
    with contextlib.ExitStack() as stack:
        slow: list[Cursor] = []
        for _ in range(40):
            lease = await start(engine)
            for _ in range(10):
                await lease.append([output("x" * 8000) for _ in range(4)])
            await lease.finish([complete()])
            log = engine._table.get(lease.job.job_id).log
            slow.append(stack.enter_context(log.cursor()))
            assert (await engine.stats()).disk_bytes <= 4096 * KIB
        assert (await engine.stats()).logs >= 8, "320 kB each: what the disk has room for"
        for place in (0, -1):
            kinds = []
            while not slow[place].at_end:
                data, last = await slow[place].read()
                kinds += [kind for _, kind, _, _ in split_frames(data)]
                slow[place].advance(last)
            assert kinds[-1] == "complete"
            assert (kinds[0] == "gap") == (place == 0), kinds[:2]
    await engine.close()


async def test_a_job_is_held_until_its_readers_have_taken_what_is_there() -> None:
    """Reading `full` has no side effect."""
    engine = make_engine(
        retention=RetentionLimits(memory=10**6, log=100_000, on_full="wait"),
    )
    lease = await start(engine)
    log = engine._table.get(lease.job.job_id).log
    with log.cursor() as cursor:
        for _ in range(30):
            await lease.append([output("x" * 8000)])
        assert lease.full
        waiting = asyncio.create_task(lease.room())
        numbers: list[int] = []
        while not numbers or numbers[-1] < log.last_id:
            data, last = await cursor.read()
            numbers += [number for number, _, _, _ in split_frames(data)]
            cursor.advance(last)
            assert lease.full
            assert log.first_id == 1, "it is the job's own turn that forgets what was taken"
        assert numbers == list(range(1, 33))
        await asyncio.wait_for(waiting, 20)
        assert not lease.full
        assert log.size_bytes <= 100_000
    await engine.close()


@pytest.mark.parametrize("bound", ["memory", "log_memory", "log"])
async def test_an_append_without_a_wait_stays_within_every_bound(bound: str) -> None:
    """Also with events of 64 KiB, which take six times as much if they are control characters."""
    limits = {"memory": 10**9, "log_memory": 10**9, "log": 10**9, bound: 1024 * KIB}
    engine = make_engine(retention=RetentionLimits(**limits, on_full="wait"))
    lease = await started(engine)
    log = engine._table.get(lease.job.job_id).log
    batches = [
        [output("\x01" * 64 * KIB)],
        [output("x" * 64 * KIB), output("y" * 100)],
        [output("a line\n")] * 1000,
        [output("z")],
    ]
    taken = 0
    for events in itertools.cycle(batches):
        before = log.last_id, log.size_bytes
        if not lease.append_now(events):
            break
        assert log.last_id == before[0] + len(events)
        assert log.size_bytes <= 1024 * KIB
        assert not lease.full
        taken += 1
    assert taken > 4
    assert (log.last_id, log.size_bytes) == before, "nothing of it is appended"
    size = sum(len(data) + FRAMING_BYTES for _, data in events)
    assert size + log.size_bytes > 1000 * KIB, "there was no room for it"
    await engine.close()


async def test_a_flood_of_large_events_stays_within_memory_and_disk(tmp_path: Path) -> None:
    spool = Spool(4096 * KIB, tmp_path)
    engine = make_engine(
        retention=RetentionLimits(memory=4096 * KIB, log_memory=1024 * KIB), spool=spool
    )
    lease = await started(engine)
    log = engine._table.get(lease.job.job_id).log
    waited = 0
    for number in range(200):
        events = [output(("\x01" if number % 10 == 0 else "x") * 64 * KIB)]
        if not lease.append_now(events):
            await lease.append(events)
            waited += 1
        if spool.used_bytes < 3000 * KIB:
            assert log.frames_bytes <= 1024 * KIB
            assert waited < number / 3 + 2
        assert engine._table.ledger.memory <= 4096 * KIB
        assert spool.used_bytes <= 4096 * KIB
    assert log.disk_bytes > 3000 * KIB, "the room is used"
    assert waited
    await lease.finish([complete()])
    (gap, *kept) = [event async for event in log.entries()]
    assert gap.kind == "gap"
    assert [event.id for event in kept] == list(range(gap.id + 1, log.last_id + 1))
    await engine.close()


async def until_spilled(engine: MemoryEngine) -> None:
    """Wait until nothing is on its way to disk."""
    async with asyncio.timeout(30):
        while engine._retention._ahead:
            await asyncio.sleep(0)


async def test_a_flood_does_not_wait_for_a_disk_that_is_fast_enough(tmp_path: Path) -> None:
    engine = make_engine(
        retention=RetentionLimits(memory=4096 * KIB, log_memory=1024 * KIB),
        spool=Spool(32 * 1024 * KIB, tmp_path),
    )
    lease = await started(engine)
    log = engine._table.get(lease.job.job_id).log
    for _ in range(200):
        assert lease.append_now([output("x" * 64 * KIB)])
        await until_spilled(engine)
        assert log.frames_bytes <= 1024 * KIB / 2
    assert log.frames_bytes > 100 * KIB, "the newest stay where readers have them at once"
    assert log.disk_bytes > 200 * 64 * KIB - 1024 * KIB
    await lease.finish([complete()])
    assert [event.id async for event in log.entries()] == list(range(1, log.last_id + 1))
    await engine.close()


async def test_a_flood_goes_on_while_the_disk_writes_until_its_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(32 * 1024 * KIB, tmp_path)
    engine = make_engine(
        retention=RetentionLimits(memory=4096 * KIB, log_memory=1024 * KIB), spool=spool
    )
    lease = await started(engine)
    log = engine._table.get(lease.job.job_id).log
    monkeypatch.setattr("streamer.eventlog.spool.os", disk := Hanging())
    writing = 0
    while lease.append_now([output("x" * 64 * KIB)]):
        await asyncio.sleep(0)
        writing += bool(spool.used_bytes)
        assert log.frames_bytes <= 1024 * KIB, "what is being written is still in memory"
    assert writing >= 4
    assert log.frames_bytes > 900 * KIB
    waiting = asyncio.create_task(lease.append([output("x" * 64 * KIB)]))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done(), "now it is held"
    disk.answers.set()
    await asyncio.wait_for(waiting, 30)
    assert log.frames_bytes < 900 * KIB
    assert lease.append_now([output("x" * 64 * KIB)])
    await lease.finish([complete()])
    assert [event.id async for event in log.entries()] == list(range(1, log.last_id + 1))
    await engine.close()


@pytest.mark.parametrize("disk", ["none", "full", "failing"])
async def test_what_goes_to_disk_early_deletes_nothing_there_and_is_not_tried_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    spool = None if disk == "none" else Spool(1024 * KIB, tmp_path)
    engine = make_engine(
        retention=RetentionLimits(memory=2048 * KIB, log_memory=512 * KIB), spool=spool
    )
    if disk == "full":
        while spool is not None and spool.used_bytes < 960 * KIB:
            record = engine._table.get(await run_job(engine, 60_000))
            await record.log.spill(10**9)
            engine._table.spilled(record)
    elif disk == "failing":
        monkeypatch.setattr("streamer.eventlog.spool.os", Failing())
    kept = (await engine.stats()).logs
    lease = await started(engine)
    log = engine._table.get(lease.job.job_id).log
    spilled: list[int] = []
    spill = log.spill

    async def noted(size: int) -> int:
        spilled.append(size)
        return await spill(size)

    monkeypatch.setattr(log, "spill", noted)
    while lease.append_now([output("x" * 8 * KIB)]):
        await until_spilled(engine)
    assert log.frames_bytes > 480 * KIB
    assert len(spilled) <= 3, "and not at each append"
    assert (await engine.stats()).logs == kept + 1
    # When it must be, what is old makes room.
    await lease.append([output("x" * 8 * KIB)])
    if disk == "full":
        assert log.frames_bytes < 480 * KIB
        assert (await engine.stats()).logs < kept + 1
    await engine.close()


async def test_an_engine_that_is_closed_leaves_nothing_on_its_way_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(4096 * KIB, tmp_path)
    engine = make_engine(
        retention=RetentionLimits(memory=2048 * KIB, log_memory=512 * KIB), spool=spool
    )
    lease = await started(engine)
    monkeypatch.setattr("streamer.eventlog.spool.os", disk := Hanging())
    while not spool.used_bytes:
        assert lease.append_now([output("x" * 64 * KIB)])
        await asyncio.sleep(0)
    (task,) = engine._retention._ahead.values()
    await asyncio.wait_for(engine.close(), 30)
    assert task.done()
    assert not engine._retention._ahead
    disk.answers.set()


async def test_an_append_without_a_wait_needs_the_lease() -> None:
    engine = make_engine()
    lease = await started(engine)
    with pytest.raises(ValueError, match="finish"):
        lease.append_now([complete()])
    await lease.finish([complete()])
    with pytest.raises(LeaseLost):
        lease.append_now([output("late")])
    await engine.close()


@pytest.mark.parametrize("bound", ["memory", "log_memory", "log"])
async def test_an_end_without_a_wait_stays_within_every_bound(bound: str) -> None:
    limits = {"memory": 10**9, "log_memory": 10**9, "log": 10**9, bound: 64 * KIB}
    engine = make_engine(retention=RetentionLimits(**limits, on_full="drop"))
    ended = 0
    for _ in range(100):
        lease = await started(engine)
        log = engine._table.get(lease.job.job_id).log
        events = [output("x" * 8 * KIB * (ended + 1)), complete()]
        before = log.last_id
        told = lease.finish_now(events)
        stats = await engine.stats()
        if told is None:
            break
        assert told
        assert log.done
        assert log.size_bytes <= limits["log"]
        assert stats.log_bytes + stats.record_bytes <= limits["memory"]
        ended += 1
    assert ended > 1
    assert (log.last_id, log.done, stats.running) == (before, False, 1), "nothing is changed"
    assert await lease.finish(events)
    assert lease.finish_now(events) in (False, None)
    await engine.close()


async def test_an_end_without_a_wait_is_the_only_one() -> None:
    engine = make_engine()
    lease = await started(engine)
    with pytest.raises(ValueError, match="exactly one terminal event"):
        lease.finish_now([output("x")])
    assert lease.finish_now([complete()]) is True
    before = await events_of(engine, lease.job.job_id)
    # Who repeats the call did not hear its answer; another end is refused.
    assert lease.finish_now([complete()]) is True
    assert await lease.finish([complete()])
    assert lease.finish_now([complete(reason="cancelled")]) is False
    assert not await lease.finish([complete(reason="cancelled")])
    assert await events_of(engine, lease.job.job_id) == before
    assert [event.kind for event in before].count("complete") == 1
    await engine.close()


async def test_a_job_that_ends_while_others_are_reaped_ends_once() -> None:
    now = [1000.0]
    engine = make_engine(
        retention=RetentionLimits(memory=1024 * KIB, log_memory=1), clock=lambda: now[0]
    )
    first, second = await start(engine), await start(engine)
    now[0] += 60
    async with engine._retention._turn:  # as while old events go to a slow disk
        reaping = asyncio.create_task(engine.reap())
        await asyncio.sleep(0)
        finishing = asyncio.create_task(second.finish([complete()]))
        await asyncio.sleep(0)
    assert await reaping == 2
    assert await finishing is False
    for lease in (first, second):
        assert (await events_of(engine, lease.job.job_id))[-1].kind == "error"
    await engine.close()


async def test_a_program_is_not_held_for_readers_that_have_everything() -> None:
    limits = RetentionLimits(memory=100 * KIB, log=1024 * KIB, on_full="wait")
    engine = make_engine(retention=limits)
    leases = [await start(engine, tenant) for tenant in "abc"]

    async def read(job_id: str) -> list[str]:
        async with engine.follow(job_id) as log:
            return [event.kind async for event in log.events()]

    async def write(lease: Lease) -> None:
        for _ in range(40):
            await lease.append([output("x" * 4 * KIB)])
            if lease.full:
                await lease.room()
        await lease.finish([complete()])

    reading = [asyncio.create_task(read(lease.job.job_id)) for lease in leases]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await asyncio.gather(*map(write, leases))
        for kinds in await asyncio.gather(*reading):
            assert kinds.count("output") == 40
            assert "gap" not in kinds
    await engine.close()


async def test_a_slow_reader_of_a_finished_job_holds_no_program() -> None:
    limits = RetentionLimits(memory=100 * KIB, log=1024 * KIB, on_full="wait")
    engine = make_engine(retention=limits)
    first = await run_job(engine, 60 * KIB)
    async with engine.follow(first) as log:
        with log.cursor():  # it never reads on
            await run_job(engine)
            lease = await start(engine)
            await lease.append([output("x" * 60 * KIB)])
            assert not lease.full
            assert [event.kind async for event in log.entries()] == ["gap", "complete"]
    await engine.close()


async def test_the_end_of_a_job_lets_the_next_of_its_tenant_begin_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.engine.memory.engine.CLAIM_WAIT_S", 600.0)
    engine = make_engine(queue=QueueLimits(places=2, max_running_per_client=1))
    first = await start(engine, "a")
    [waits] = await submit(engine, "a")
    claiming = asyncio.create_task(claim_one(engine))
    await asyncio.sleep(0)
    await first.finish([complete()])
    second = await asyncio.wait_for(claiming, 20)
    assert second.job.job_id == waits
    await engine.close()


async def test_a_job_that_is_over_is_not_held() -> None:
    engine = make_engine(
        retention=RetentionLimits(memory=10**6, log=100_000, on_full="wait"),
    )
    lease = await start(engine)
    async with engine.follow(lease.job.job_id) as log:
        with log.cursor():  # it never reads
            while not lease.full:
                await lease.append([output("x" * 8000)])
            waiting = asyncio.create_task(lease.room())
            await asyncio.sleep(0)
            await lease.finish([complete()])
            await asyncio.wait_for(waiting, 20)
            assert not lease.full
    await engine.close()


async def test_what_waits_is_bounded_for_all_tenants_together() -> None:
    job = make_job()
    engine = make_engine(queue=QueueLimits(max_waiting_bytes=weight_of(job, None) * 3 // 2))
    await engine.submit(job, tenant="a")
    with pytest.raises(Busy, match="the queue is full"):
        await engine.submit(make_job(), tenant="b")
    await claim_one(engine)
    await engine.submit(make_job(), tenant="b")
    await engine.close()


def test_signals_that_were_taken_make_room_for_others() -> None:
    inbox = Inbox()
    for _ in range(2 * INBOX_BYTES // size_of(Signal(10))):
        assert inbox.put(Signal(10))
        assert inbox.take_request() == Signal(10)

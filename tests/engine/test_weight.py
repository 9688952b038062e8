"""The estimated weight of jobs is what they take: measured for every way to make them large."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import pytest

from streamer.engine.interface import Idempotency, Input, Signal
from streamer.engine.limits import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.engine.weight import weigh
from streamer.errors import Busy, TooLarge
from streamer.model.events import Output
from streamer.model.job import Limits, Phase, ResolvedJob, SourceFile, Step

from . import claim_one, complete, make_job, output, start

KIB = 1024
MIB = 1024 * KIB


def large(number: int) -> str:
    """Return a new text: an interned or shared one would be measured as nothing."""
    return f"{number:06}" + "x" * 100


def words(count: int) -> tuple[str, ...]:
    return tuple(large(number)[:6] for number in range(count))


def with_argv(argv: tuple[str, ...]) -> ResolvedJob:
    return replace(make_job(), steps=(Step(Phase.RUN, argv, Limits()),))


WORST: dict[str, Callable[[], ResolvedJob]] = {
    "one file": lambda: replace(make_job(), files=(SourceFile("main.py", bytes(100 * KIB)),)),
    "small files": lambda: replace(
        make_job(), files=tuple(SourceFile(large(n), bytes(1)) for n in range(1000))
    ),
    "small arguments": lambda: with_argv(words(4096)),
    "large arguments": lambda: with_argv(tuple("x" * (100 * KIB) for _ in range(2))),
    "wide arguments": lambda: with_argv(tuple("😀" * (10 * KIB) for _ in range(2))),
    "variables": lambda: replace(make_job(), env={name: name + "y" for name in words(1000)}),
    "metadata": lambda: replace(
        make_job(), metadata={name: name + "é" * 100 for name in words(64)}
    ),
    "stdin": lambda: replace(make_job(), stdin=bytes(100 * KIB)),
    "nothing": make_job,
}


def make_engine(**limits: Any) -> MemoryEngine:
    retention = RetentionLimits(memory=limits.pop("retention_bytes", 64 * MIB))
    return MemoryEngine(queue=QueueLimits(**limits), retention_s=600.0, retention=retention)


class Measured:
    """The memory allocated during a block and not freed in it."""

    bytes = 0

    def __enter__(self) -> Self:
        gc.collect()
        tracemalloc.start()
        self._before, _ = tracemalloc.get_traced_memory()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.bytes = tracemalloc.get_traced_memory()[0] - self._before
        tracemalloc.stop()


@pytest.mark.parametrize("kind", WORST)
async def test_a_waiting_job_is_counted_for_what_it_takes(kind: str) -> None:
    engine = make_engine()
    count = 50 if kind != "nothing" else 1000
    await start(engine)  # what is made once is not what a job takes
    with Measured() as measured:
        for number in range(count):
            key = Idempotency(large(number), number.to_bytes(32, "big"))
            await engine.submit(WORST[kind](), tenant="t", idempotency=key)
    stats = await engine.stats()
    counted = stats.waiting_bytes + stats.log_bytes
    assert measured.bytes <= counted <= 3 * measured.bytes
    await engine.close()


@pytest.mark.parametrize("kind", WORST)
async def test_a_finished_job_is_counted_for_what_is_kept_of_it(kind: str) -> None:
    engine = make_engine()
    count = 50 if kind != "nothing" else 1000
    await start(engine)  # what is made once is not what a job takes
    with Measured() as measured:
        for number in range(count):
            key = Idempotency(large(number), number.to_bytes(32, "big"))
            await engine.submit(WORST[kind](), tenant="t", idempotency=key)
            await (await claim_one(engine)).finish([complete()])
    stats = await engine.stats()
    assert (stats.waiting_bytes, stats.logs) == (0, count + 1)
    counted = stats.record_bytes + stats.log_bytes
    assert measured.bytes <= counted <= 3 * measured.bytes
    if kind != "metadata":
        assert counted <= count * 8 * KIB, "what only its run needed is not kept"
    for view in await engine.jobs(tenant="t", limit=count):
        assert await engine.purge(view.job.job_id)
    stats = await engine.stats()
    assert (stats.record_bytes, stats.logs) == (0, 1)
    await engine.close()


async def test_what_is_kept_of_a_job_is_what_its_record_shows() -> None:
    engine = make_engine()
    job = replace(
        with_argv(("python3", "main.py", "secret")),
        files=(SourceFile("main.py", b"print(1)"),),
        env={"TOKEN": "secret"},
        stdin=b"secret",
        metadata={"k": "v"},
        allow_hosts=("example.org",),
        read_only=("/opt/x",),
    )
    await engine.submit(job)
    lease = await claim_one(engine)
    assert lease.job == job
    await lease.finish([complete()])
    view = await engine.summary(job.job_id)
    assert view is not None
    assert view.job == job.facts
    assert view.job.metadata == {"k": "v"}
    assert "secret" not in repr(view)
    assert weigh(view.job) < weigh(job)
    await engine.close()


async def test_the_records_of_finished_jobs_stay_within_the_retention() -> None:
    engine = make_engine(retention_bytes=256 * KIB)
    for _ in range(100):
        await engine.submit(replace(make_job(), metadata={"k": "v" * 10 * KIB}))
        await (await claim_one(engine)).finish([complete()])
        stats = await engine.stats()
        assert stats.record_bytes + stats.log_bytes <= 256 * KIB
    assert 15 <= stats.logs <= 25
    await engine.close()


async def test_the_queue_is_bounded_by_what_its_jobs_hold() -> None:
    engine = make_engine(max_waiting_bytes=100 * KIB)
    with pytest.raises(TooLarge, match="max_waiting_bytes"):
        await engine.submit(replace(make_job(), stdin=bytes(100 * KIB)))
    for _ in range(2):
        await engine.submit(replace(make_job(), stdin=bytes(39 * KIB)))
    with pytest.raises(Busy) as refused:
        await engine.submit(replace(make_job(), stdin=bytes(39 * KIB)))
    assert refused.value.code == "queue_full"
    await engine.submit(make_job())
    first = await claim_one(engine)
    await engine.submit(replace(make_job(), stdin=bytes(39 * KIB)))
    assert (await engine.stats()).waiting_bytes <= 100 * KIB
    with pytest.raises(Busy):
        await engine.submit(replace(make_job(), stdin=bytes(39 * KIB)))
    await first.finish([complete()])
    for view in await engine.jobs(tenant="", limit=10):
        await engine.cancel(view.job.job_id)
    assert (await engine.stats()).waiting_bytes == 0
    await engine.close()


async def test_a_client_has_its_share_of_what_waits() -> None:
    engine = make_engine(max_waiting_bytes=100 * KIB, max_waiting_bytes_per_client=60 * KIB)
    with pytest.raises(TooLarge):
        await engine.submit(replace(make_job(), stdin=bytes(60 * KIB)), tenant="a")
    await engine.submit(replace(make_job(), stdin=bytes(40 * KIB)), tenant="a")
    with pytest.raises(Busy) as refused:
        await engine.submit(replace(make_job(), stdin=bytes(40 * KIB)), tenant="a")
    assert refused.value.code == "rate_limited"
    await engine.submit(replace(make_job(), stdin=bytes(40 * KIB)), tenant="b")
    await engine.close()


async def test_input_that_waits_with_its_job_is_counted() -> None:
    engine = make_engine(max_waiting_bytes=1400 * KIB)
    job = make_job()
    await engine.submit(job)
    with Measured() as measured:
        for number in range(1000):
            assert (
                await engine.send(job.job_id, Input(number.to_bytes(4, "big") * 50)) == "accepted"
            )
            assert await engine.send(job.job_id, Signal(10)) == "accepted"
    assert measured.bytes <= (await engine.stats()).waiting_bytes <= 2 * measured.bytes
    await engine.submit(other := make_job())
    assert await engine.send(other.job_id, Input(bytes(800 * KIB))) == "accepted"
    with pytest.raises(Busy) as refused:
        await engine.send(job.job_id, Input(bytes(400 * KIB)))
    assert refused.value.code == "queue_full"
    lease = await claim_one(engine)
    assert lease.job == job
    assert await engine.send(job.job_id, Input(bytes(400 * KIB))) == "accepted", "it runs by now"
    await engine.cancel(job.job_id)
    await engine.cancel(other.job_id)
    assert (await engine.stats()).waiting_bytes == 0
    await engine.close()


async def test_a_log_that_was_read_is_counted_for_its_copy() -> None:
    engine = make_engine(retention_bytes=256 * KIB)
    with Measured() as measured:
        for _ in range(60):
            lease = await start(engine)
            await lease.append([output("x" * 8000) for _ in range(7)])
            await engine._table.get(lease.job.job_id).log.read(0)
            await lease.finish([complete()])
            # A late reader, as for a job's document.
            await engine._table.get(lease.job.job_id).log.read(0)
            del lease
    stats = await engine.stats()
    assert stats.log_bytes + stats.record_bytes <= 256 * KIB
    assert measured.bytes <= 320 * KIB
    await engine.close()


async def test_a_value_that_nobody_has_weighed_is_not_taken_for_nothing() -> None:
    with pytest.raises(TypeError, match="Output"):
        weigh(Output("stdout", "x", 0, "run"))

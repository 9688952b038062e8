"""The promises of every engine: cancellation, and input and signals for the program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from streamer.engine.interface import Cancel, Control, Engine, Eof, Input, Lease, Resize, Signal
from streamer.errors import Busy, Conflict, TooLarge, UnknownJob
from streamer.model.events import Complete
from streamer.model.job import TerminalSize

from . import claim_one, complete, events_of, make_job, start, submit

KIB = 1024
MANY = 9000
"""More signals than an input buffer has room for."""


def listen(items: AsyncIterator[Control]) -> asyncio.Future[Control]:
    return asyncio.ensure_future(anext(items))


async def given(lease: Lease) -> list[Input | Eof]:
    """Return the input up to its end, which must have been sent."""
    return [item async for item in lease.inputs()]


async def sent_until_busy(engine: Engine, job_id: str, item: Input | Signal) -> int:
    """Return how many of `item` were accepted before the engine refused one."""
    for count in range(100_000):
        try:
            await engine.send(job_id, item)
        except Busy:
            return count
    raise AssertionError("the input buffer has no bound")


async def test_a_queued_job_is_cancelled_at_once(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    assert await engine.cancel(job_id) == "cancelled"
    events = await events_of(engine, job_id)
    assert events[-1].data == Complete(
        reason="cancelled",
        exit_code=None,
        signal=None,
        duration_ms=0,
        cpu_time_ms=0,
        peak_memory_bytes=None,
        timed_out=False,
        oom_killed=False,
        output_bytes=0,
        output_truncated=False,
        sandbox="bwrap",
        phase="run",
    )
    view = await engine.summary(job_id)
    assert view is not None
    assert (view.state, view.started_at) == ("complete", None)
    assert view.finished_at is not None
    assert await engine.cancel(job_id) == "done"
    assert await events_of(engine, job_id) == events
    assert (await engine.stats()).waiting == 0


async def test_the_worker_of_a_claimed_job_is_told_once(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    lease = await claim_one(engine)
    control = lease.control()
    waiting = listen(control)
    await asyncio.sleep(0)
    assert await engine.cancel(job_id) == "requested"
    assert await engine.cancel(job_id) == "requested"
    assert await waiting == Cancel()
    waiting = listen(control)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await lease.finish([complete("cancelled")])
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert await engine.cancel(job_id) == "done"


async def test_a_cancellation_that_came_before_the_worker_listens_is_kept(engine: Engine) -> None:
    lease = await start(engine)
    await engine.cancel(lease.job.job_id)
    assert await listen(lease.control()) == Cancel()


async def test_a_cancellation_overtakes_everything_else(engine: Engine) -> None:
    lease = await start(engine)
    await engine.send(lease.job.job_id, Input(b"x" * 512 * KIB))
    await engine.send(lease.job.job_id, Signal(2))
    await engine.cancel(lease.job.job_id)
    assert await listen(lease.control()) == Cancel()


async def test_unknown_jobs_are_told_apart(engine: Engine) -> None:
    assert await engine.cancel("nobody") == "unknown"
    assert await engine.summary("nobody") is None
    with pytest.raises(UnknownJob, match="'nobody'"):
        await engine.send("nobody", Eof())
    with pytest.raises(UnknownJob, match="'nobody'"):
        await events_of(engine, "nobody")
    with pytest.raises(UnknownJob, match="'nobody'"):
        await engine.purge("nobody")


async def test_input_that_came_while_queued_is_kept(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    for item in (Input(b"one"), Input(b""), Input(b"two"), Eof()):
        assert await engine.send(job_id, item) == "accepted"
    lease = await claim_one(engine)
    await lease.state("running")
    assert await given(lease) == [Input(b"one"), Input(b""), Input(b"two"), Eof()]


async def test_input_reaches_a_running_job_as_it_comes(engine: Engine) -> None:
    lease = await start(engine)
    inputs = lease.inputs()
    for text in (b"a", b"b", b"c"):
        waiting = asyncio.ensure_future(anext(inputs))
        await asyncio.sleep(0)
        assert await engine.send(lease.job.job_id, Input(text)) == "accepted"
        assert await waiting == Input(text)


async def test_input_ends_with_its_end_or_the_job(engine: Engine) -> None:
    lease = await start(engine)
    job_id = lease.job.job_id
    waiting = asyncio.create_task(given(lease))
    await asyncio.sleep(0)
    assert await engine.send(job_id, Eof()) == "accepted"
    assert await waiting == [Eof()]
    assert await engine.send(job_id, Eof()) == "closed"
    assert await engine.send(job_id, Input(b"late")) == "closed"
    assert await engine.send(job_id, Signal(15)) == "accepted", "the program is still there"
    waiting = asyncio.create_task(given(lease))
    await asyncio.sleep(0)
    await lease.finish([complete()])
    assert await waiting == []
    for item in (Input(b"late"), Eof(), Signal(15)):
        assert await engine.send(job_id, item) == "closed"


async def test_a_job_that_takes_no_input_is_closed(engine: Engine) -> None:
    job = make_job(interactive=False)
    await engine.submit(job)
    assert await engine.send(job.job_id, Input(b"x")) == "closed"
    assert await engine.send(job.job_id, Eof()) == "closed"
    assert await engine.send(job.job_id, Signal(2)) == "accepted"


@pytest.mark.parametrize("claimed", [False, True])
async def test_pending_input_is_bounded_and_makes_room_again(
    engine: Engine, *, claimed: bool
) -> None:
    job = make_job()
    await engine.submit(job)
    lease = None
    if claimed:
        lease = await claim_one(engine)
        await lease.state("running")
    chunk = Input(b"x" * 100 * KIB)
    assert await sent_until_busy(engine, job.job_id, chunk) == 10, "about 1 MiB"
    lease = lease or await claim_one(engine)
    await lease.state("running")
    assert await anext(aiter(lease.inputs())) == chunk
    assert await engine.send(job.job_id, chunk) == "accepted"
    with pytest.raises(Busy):
        await engine.send(job.job_id, chunk)
    assert await engine.send(job.job_id, Eof()) == "accepted"
    assert await given(lease) == [*[chunk] * 10, Eof()]


async def test_empty_input_and_signals_are_bounded_too(engine: Engine) -> None:
    for item in (Input(b""), Signal(10)):
        [job_id] = await submit(engine, "a")
        assert await sent_until_busy(engine, job_id, item) > 1000
        assert await engine.send(job_id, Eof()) == "accepted", "the end always has room"


async def test_input_that_never_fits_is_told_apart(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    with pytest.raises(TooLarge, match="1048577 bytes"):
        await engine.send(job_id, Input(b"x" * (KIB * KIB + 1)))


async def test_signals_wait_for_the_program(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    await engine.send(job_id, Signal(2))
    lease = await claim_one(engine)
    await lease.state("preparing")
    control = lease.control()
    waiting = listen(control)
    await asyncio.sleep(0)
    assert not waiting.done()
    await lease.state("running")
    assert await waiting == Signal(2)
    waiting = listen(control)
    await asyncio.sleep(0)
    await engine.send(job_id, Signal(15))
    assert await waiting == Signal(15)


async def test_what_is_sent_again_under_its_number_comes_once(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    assert await engine.send(job_id, Input(b"one"), 1) == "accepted"
    assert await engine.send(job_id, Input(b"one"), 1) == "accepted"
    lease = await claim_one(engine)
    await lease.state("running")
    assert await engine.send(job_id, Input(b"one"), 1) == "accepted"
    assert await engine.send(job_id, Input(b"two"), 2) == "accepted"
    assert await engine.send(job_id, Input(b"more")) == "accepted", "without a number it is new"
    assert await engine.send(job_id, Eof(), 5) == "accepted"
    assert await engine.send(job_id, Eof(), 5) == "accepted", "that it is closed is its own doing"
    assert await engine.send(job_id, Input(b"late"), 6) == "closed"
    assert await given(lease) == [Input(b"one"), Input(b"two"), Input(b"more"), Eof()]
    await lease.finish([complete()])
    assert await engine.send(job_id, Eof(), 5) == "accepted", "it was, before"
    assert await engine.send(job_id, Eof(), 6) == "closed"


async def test_input_that_says_where_it_begins_comes_once(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    assert await engine.send(job_id, Input(b"one", 0)) == "accepted"
    assert await engine.send(job_id, Input(b"one", 0)) == "accepted"
    assert await engine.send(job_id, Input(b"netwo", 1)) == "accepted", "its end is new"
    with pytest.raises(Conflict, match="begins at byte 7, and 6 "):
        await engine.send(job_id, Input(b"x", 7))
    assert await engine.send(job_id, Input(b"three")) == "accepted", "it says nothing, so it is new"
    with pytest.raises(Conflict, match="begins at byte 12, and 11 "):
        await engine.send(job_id, Eof(12))
    with pytest.raises(Conflict, match="ends at byte 6, and 11 "):
        await engine.send(job_id, Eof(6))
    lease = await claim_one(engine)
    await lease.state("running")
    for _ in range(2):
        assert await engine.send(job_id, Input(b"three", 6)) == "accepted"
        assert await engine.send(job_id, Eof(11)) == "accepted"
    assert await engine.send(job_id, Input(b"late", 11)) == "closed"
    assert await engine.send(job_id, Eof()) == "closed"
    told = [Input(b"one"), Input(b"two"), Input(b"three"), Eof()]
    assert await given(lease) == told
    await lease.finish([complete()])
    assert await engine.send(job_id, Eof(11)) == "accepted", "it was, before"


async def test_what_did_not_fit_has_not_come(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    await engine.send(job_id, Input(bytes(1000 * KIB), 0))
    with pytest.raises(Busy):
        await engine.send(job_id, Input(bytes(100 * KIB), 1000 * KIB))
    lease = await claim_one(engine)
    await lease.state("running")
    inputs = lease.inputs()
    await anext(inputs)
    assert await engine.send(job_id, Input(b"two", 1000 * KIB)) == "accepted"
    assert await anext(inputs) == Input(b"two")


async def test_of_the_sizes_of_a_terminal_the_last_one_is_told(engine: Engine) -> None:
    job = make_job(terminal=TerminalSize(80, 24))
    await engine.submit(job)
    for cols in range(1, MANY + 1):  # more than there is room for
        assert await engine.send(job.job_id, Resize(cols, 24)) == "accepted"
    lease = await claim_one(engine)
    control = lease.control()
    waiting = listen(control)
    await asyncio.sleep(0)
    assert not waiting.done(), "there is no program yet"
    await lease.state("running")
    assert await waiting == Resize(MANY, 24)
    await engine.send(job.job_id, Resize(10, 5))
    assert await anext(control) == Resize(10, 5)
    await lease.finish([complete()])
    assert await engine.send(job.job_id, Resize(10, 5)) == "closed"


async def test_a_job_without_a_terminal_has_no_size(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    assert await engine.send(job_id, Resize(80, 24)) == "closed"


async def test_what_was_refused_may_come_again_under_its_number(engine: Engine) -> None:
    [job_id] = await submit(engine, "a")
    await engine.send(job_id, Input(bytes(1000 * KIB)), 1)
    with pytest.raises(Busy):
        await engine.send(job_id, Input(bytes(100 * KIB)), 2)
    lease = await claim_one(engine)
    await lease.state("running")
    inputs = lease.inputs()
    await anext(inputs)
    assert await engine.send(job_id, Input(b"two"), 2) == "accepted"
    assert await anext(inputs) == Input(b"two")


async def test_a_signal_that_is_sent_again_comes_once(engine: Engine) -> None:
    lease = await start(engine)
    for number in (1, 1, 2):
        assert await engine.send(lease.job.job_id, Signal(10), number) == "accepted"
    control = lease.control()
    assert [await anext(control), await anext(control)] == [Signal(10), Signal(10)]
    waiting = listen(control)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()

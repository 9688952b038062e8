"""Decode, count and gather what a program writes, through real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.jobs.transcript import raw_output
from streamer.model.events import JobEvent, Output, encode
from streamer.worker.output import READ_BYTES, SMALL_READ, Budget, OutputPump, TextDecoder
from streamer.worker.streams import MAX_BACKLOG_BYTES, InputFeed


@given(st.text(), st.lists(st.integers(0, 400)))
def test_text_survives_every_way_of_cutting_it(text: str, cuts: list[int]) -> None:
    data = text.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = TextDecoder()
    parts = [decoder.decode(data[a:b]) for a, b in itertools.pairwise(places)] + [
        decoder.decode(b"", final=True)
    ]
    assert "".join(part for part, _ in parts) == text
    assert not any(lossy for _, lossy in parts)


@given(st.binary(), st.integers(0, 100))
def test_bytes_that_are_no_text_are_replaced_and_told(data: bytes, cut: int) -> None:
    decoder = TextDecoder()
    parts = [
        decoder.decode(data[:cut]),
        decoder.decode(data[cut:]),
        decoder.decode(b"", final=True),
    ]
    assert "".join(part for part, _ in parts) == data.decode(errors="replace")
    try:
        data.decode()
    except UnicodeDecodeError:
        assert any(lossy for _, lossy in parts)
    else:
        assert not any(lossy for _, lossy in parts)


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=50))))
def test_a_budget_keeps_the_first_bytes_and_counts_the_rest(
    writes: list[tuple[str, bytes]],
) -> None:
    budget = Budget(100)
    kept = b"".join(budget.take(stream, data) for stream, data in writes)  # type: ignore[arg-type]
    whole = b"".join(data for _, data in writes)
    assert kept == whole[:100]
    assert budget.taken == len(kept)
    assert sum(event.dropped_bytes for event in budget.truncated()) == len(whole) - len(kept)
    assert budget.exceeded == (len(whole) > 100)


def piped(pump: OutputPump, stream: Literal["stdout", "stderr"]) -> int:
    """Return the writing end of a pipe that the pump reads."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pump.add(stream, reading)
    return writing


def feeding() -> tuple[int, InputFeed]:
    """Return the reading end of a pipe, and the `InputFeed` of the other."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return reading, InputFeed(writing)


class Pumped:
    """A pump whose events are recorded, and the writing end of its standard output."""

    def __init__(self, limit: int = 1 << 30, *, as_base64: bool = False) -> None:
        self.events: list[Output] = []
        self.batches = 0
        self.exceeded = 0
        self.pump = OutputPump(
            phase="run",
            budget=Budget(limit),
            as_base64=as_base64,
            elapsed_ms=lambda: 0,
            write=self.write,
            on_exceeded=self.count,
        )
        self.stdout = piped(self.pump, "stdout")

    async def write(self, events: Sequence[JobEvent]) -> None:
        self.batches += 1
        self.events += [event for event in events if isinstance(event, Output)]

    def count(self) -> None:
        self.exceeded += 1

    @property
    def text(self) -> str:
        return "".join(event.data for event in self.events)


async def test_a_line_is_passed_on_at_once_and_the_end_is_not_waited_for() -> None:
    pumped = Pumped()
    running = asyncio.create_task(pumped.pump.run())
    os.write(pumped.stdout, b"one\n")
    while not pumped.events:
        await asyncio.sleep(0)
    assert pumped.text == "one\n"
    os.write(pumped.stdout, b"two")
    os.close(pumped.stdout)
    pumped.pump.hurry()
    await asyncio.wait_for(running, 5)
    assert pumped.text == "one\ntwo"


async def test_what_a_program_left_makes_no_more_events_than_the_program() -> None:
    pumped = Pumped()
    running = asyncio.create_task(pumped.pump.run())
    pumped.pump.hurry()
    for _ in range(400):
        os.write(pumped.stdout, b"x")
        await asyncio.sleep(0.0005)
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 5)
    assert pumped.text == "x" * 400
    assert pumped.batches < 200


async def test_nothing_is_held_back_for_longer_than_is_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Twenty milliseconds at most of intended waiting, whatever the machine adds."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    paused: list[float] = []
    held: list[float] = []

    def noted(delay: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        paused.append(delay)
        return call_later(delay, *args, **options)

    class Timed(Pumped):
        async def write(self, events: Sequence[JobEvent]) -> None:
            held.append(sum(paused))
            paused.clear()
            await super().write(events)

    pumped = Timed()
    stderr = piped(pumped.pump, "stderr")
    monkeypatch.setattr(loop, "call_later", noted)
    running = asyncio.create_task(pumped.pump.run())
    # In pieces of lines, on both streams, each as soon as the last has arrived: the worst case.
    for number in range(1, 21):
        os.write(pumped.stdout, b"o")
        os.write(stderr, b"e")
        while len(pumped.text) < 2 * number:
            await asyncio.sleep(0)
    for end in (pumped.stdout, stderr):
        os.close(end)
    await running
    assert 0 < max(held) <= 0.020


async def test_small_writes_one_after_another_are_gathered() -> None:
    pumped = Pumped()
    running = asyncio.create_task(pumped.pump.run())

    def write() -> None:
        for number in range(2000):
            os.write(pumped.stdout, b"%d\n" % number)
            time.sleep(0.00001)
        os.close(pumped.stdout)

    await asyncio.to_thread(write)
    await asyncio.wait_for(running, 5)
    assert pumped.text == "".join(f"{number}\n" for number in range(2000))
    assert pumped.batches < 500


@pytest.mark.parametrize("as_base64", [False, True], ids=["text", "base64"])
async def test_an_event_is_never_longer_than_a_client_takes(*, as_base64: bool) -> None:
    """One of them refuses lines of 512 KiB; a control character takes six bytes in JSON."""
    pumped = Pumped(as_base64=as_base64)
    fcntl.fcntl(pumped.stdout, fcntl.F_SETPIPE_SZ, 2**18)
    data = b"\x01" * 250_000
    os.write(pumped.stdout, data[: SMALL_READ - 1])
    running = asyncio.create_task(pumped.pump.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it waits for the rest of the line now
    os.write(pumped.stdout, data[SMALL_READ - 1 :])
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 5)
    raw = [raw_output(event) for event in pumped.events]
    assert b"".join(raw) == data
    assert max(map(len, raw)) >= READ_BYTES, "as much as is read at once"
    lines = [b"data: " + encode(event)[1] for event in pumped.events]
    assert max(map(len, lines)) < 512 * 1024


async def test_over_the_budget_it_reads_on_and_says_so_once() -> None:
    pumped = Pumped(limit=10)
    running = asyncio.create_task(pumped.pump.run())
    await asyncio.to_thread(os.write, pumped.stdout, b"x" * 100_000)
    await asyncio.to_thread(os.write, pumped.stdout, b"y" * 100_000)
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 5)
    assert (pumped.text, pumped.exceeded) == ("x" * 10, 1)


async def test_input_waits_for_a_reader_and_arrives_whole() -> None:
    reading, feed = feeding()
    data = os.urandom(MAX_BACKLOG_BYTES * 2)
    writing = asyncio.create_task(feed.write(data))
    await asyncio.sleep(0)
    assert not writing.done()

    def read() -> bytes:
        parts = []
        while part := os.read(reading, 65536):
            parts.append(part)
        return b"".join(parts)

    result = asyncio.create_task(asyncio.to_thread(read))
    await asyncio.wait_for(writing, 5)
    feed.end()
    assert await asyncio.wait_for(result, 5) == data
    feed.close()
    os.close(reading)


async def test_a_program_that_reads_little_gets_no_more_input_than_it_makes_room_for() -> None:
    reading, feed = feeding()
    writing = asyncio.create_task(feed.write(bytes(3 * MAX_BACKLOG_BYTES)))

    async def read(size: int) -> None:
        """As the program reads, so the loop has to write what fits into the pipe."""
        while size:
            size -= len(await asyncio.to_thread(os.read, reading, min(size, 65536)))

    await read(MAX_BACKLOG_BYTES)
    assert not writing.done(), "twice as much as may be kept is left, but for a pipe of it"
    await read(MAX_BACKLOG_BYTES)
    async with asyncio.timeout(5):
        await writing
    feed.close()
    os.close(reading)


async def test_a_program_that_closes_its_input_holds_nobody_up() -> None:
    reading, feed = feeding()
    writing = asyncio.create_task(feed.write(bytes(2 * MAX_BACKLOG_BYTES)))
    await asyncio.sleep(0)
    assert not writing.done()
    os.close(reading)
    async with asyncio.timeout(5):
        await writing
    feed.close()


async def test_input_to_a_program_that_has_closed_it_is_dropped() -> None:
    reading, feed = feeding()
    os.close(reading)  # the only one
    await asyncio.wait_for(feed.write(b"x" * (2 * MAX_BACKLOG_BYTES)), 5)
    feed.end()
    feed.close()


async def test_what_a_stranger_writes_after_the_end_is_not_waited_for() -> None:
    passed = b""

    async def write(events: Sequence[JobEvent]) -> None:
        nonlocal passed
        passed += b"".join(event.data.encode() for event in events if isinstance(event, Output))
        await asyncio.sleep(0)
        with contextlib.suppress(BrokenPipeError):  # nobody reads on
            os.write(writing, b"late\n")  # sooner than anybody reads

    reading = OutputPump(
        phase="run",
        budget=Budget(2**20),
        as_base64=False,
        elapsed_ms=lambda: 0,
        write=write,
        on_exceeded=lambda: None,
    )
    writing = piped(reading, "stdout")
    running = asyncio.create_task(reading.run())
    await asyncio.sleep(0)
    os.write(writing, b"its own\n")
    reading.read_rest()
    async with asyncio.timeout(5):
        await running
    assert passed.startswith(b"its own\n")
    os.close(writing)


async def test_the_end_of_a_terminal_is_the_end_of_its_output() -> None:
    # Linux reports it as EIO, where a pipe just has nothing more to read.
    pumped = Pumped()
    os.close(pumped.stdout)
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    pumped.pump.add("stdout", ours)
    running = asyncio.create_task(pumped.pump.run())
    os.write(theirs, b"a line\n")
    while "line" not in pumped.text:
        await asyncio.sleep(0)
    os.close(theirs)
    await asyncio.wait_for(running, 5)
    assert pumped.text == "a line\r\n"

"""Decode, count and gather what a program writes, through real pipes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.engine.interface import LeaseLost
from streamer.jobs.transcript import raw_output
from streamer.model.events import JobEvent, Output, encode
from streamer.worker.output import (
    BURST_S,
    LINE_S,
    READ_BYTES,
    SMALL_READ,
    Budget,
    OutputPump,
    TextDecoder,
    _waiting_bytes,
)
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


def test_the_budget_of_a_case_is_taken_out_of_the_jobs() -> None:
    whole = Budget(100)
    first, second = Budget(60, whole), Budget(70, whole)
    assert first.take("stdout", b"a" * 80) == b"a" * 60
    assert (first.exceeded, whole.exceeded, whole.cut) == (True, False, True)
    assert second.take("stderr", b"b" * 30) == b"b" * 30
    assert second.take("stderr", b"c" * 30) == b"c" * 10
    assert (second.exceeded, second.taken, whole.exceeded, whole.taken) == (True, 40, True, 100)
    dropped = {event.stream: event.dropped_bytes for event in whole.truncated()}
    assert dropped == {"stdout": 20, "stderr": 20}
    assert (first.dropped, second.dropped) == ({"stdout": 20}, {"stderr": 20})


def piped(pump: OutputPump, stream: Literal["stdout", "stderr"]) -> int:
    """Return the writing end of a pipe that the pump reads."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pump.add(stream, reading)
    return writing


def feeding(*, terminal: bool = False) -> tuple[int, InputFeed]:
    """Return the reading end of a pipe, and the `InputFeed` of the other."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return reading, InputFeed(writing, terminal=terminal)


class Pumped:
    """A pump whose events are recorded, and the writing end of its standard output.

    `prompt` is whether its log takes events at once, as that of an engine in this process.
    """

    def __init__(
        self, limit: int = 1 << 30, *, as_base64: bool = False, prompt: bool = True
    ) -> None:
        self.events: list[Output] = []
        self.batches = 0
        self.exceeded = 0
        self.prompt = prompt
        self.pump = OutputPump(
            phase="run",
            budget=Budget(limit),
            as_base64=as_base64,
            elapsed_ms=lambda: 0,
            write_now=self.write_now,
            write=self.write,
            on_exceeded=self.count,
        )
        self.stdout = piped(self.pump, "stdout")

    def write_now(self, events: Sequence[JobEvent]) -> bool:
        if self.prompt:
            self.keep(events)
        return self.prompt

    async def write(self, events: Sequence[JobEvent]) -> None:
        await asyncio.sleep(0)
        self.keep(events)

    def keep(self, events: Sequence[JobEvent]) -> None:
        self.batches += 1
        self.events += [event for event in events if isinstance(event, Output)]

    def count(self) -> None:
        self.exceeded += 1

    @property
    def text(self) -> str:
        return "".join(event.data for event in self.events)


either = pytest.mark.parametrize("prompt", [True, False], ids=["at-once", "later"])


@either
async def test_a_line_is_passed_on_at_once_and_the_end_is_not_waited_for(*, prompt: bool) -> None:
    pumped = Pumped(prompt=prompt)
    running = asyncio.create_task(pumped.pump.run())
    os.write(pumped.stdout, b"one\n")
    while not pumped.events:
        await asyncio.sleep(0)
    assert pumped.text == "one\n"
    os.write(pumped.stdout, b"two")
    os.close(pumped.stdout)
    pumped.pump.hurry()
    await asyncio.wait_for(running, 20)
    assert pumped.text == "one\ntwo"


async def test_whole_lines_need_one_registration_and_no_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.worker.output.LINE_S", 0.0)  # none comes faster than that
    loop = asyncio.get_running_loop()
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(loop, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            return real(*args, **options)

        return call

    for name in ("add_reader", "call_at", "call_later", "create_task"):
        monkeypatch.setattr(loop, name, counted(name))
    pumped = Pumped()
    running = loop.create_task(pumped.pump.run())
    for number in range(1, 101):
        os.write(pumped.stdout, b"a line\n")
        while len(pumped.events) < number:
            await asyncio.sleep(0)
    assert calls == ["create_task", "add_reader"]
    os.close(pumped.stdout)
    await running


@either
async def test_what_a_program_left_makes_no_more_events_than_the_program(*, prompt: bool) -> None:
    pumped = Pumped(prompt=prompt)
    running = asyncio.create_task(pumped.pump.run())
    pumped.pump.hurry()
    for _ in range(400):
        os.write(pumped.stdout, b"x")
        await asyncio.sleep(0.0005)
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 20)
    assert pumped.text == "x" * 400
    assert pumped.batches < 200


@either
async def test_nothing_is_held_back_for_longer_than_is_promised(
    monkeypatch: pytest.MonkeyPatch, *, prompt: bool
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
        def keep(self, events: Sequence[JobEvent]) -> None:
            held.append(sum(paused))
            paused.clear()
            super().keep(events)

    pumped = Timed(prompt=prompt)
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


@either
async def test_small_writes_one_after_another_are_gathered(*, prompt: bool) -> None:
    pumped = Pumped(prompt=prompt)
    running = asyncio.create_task(pumped.pump.run())

    def write() -> None:
        for number in range(2000):
            os.write(pumped.stdout, b"%d\n" % number)
            time.sleep(0.00001)
        os.close(pumped.stdout)

    started = time.monotonic()
    await asyncio.to_thread(write)
    await asyncio.wait_for(running, 20)
    took_s = time.monotonic() - started
    assert pumped.text == "".join(f"{number}\n" for number in range(2000))
    assert pumped.batches <= (took_s + BURST_S) / LINE_S + 2


async def test_a_line_a_millisecond_is_an_event_a_line() -> None:
    """Written as unbuffered Python does: the text, and then the end of the line."""
    pumped = Pumped()
    running = asyncio.create_task(pumped.pump.run())
    for number in range(300):
        os.write(pumped.stdout, b"%d" % number)
        if number % 2:
            await asyncio.sleep(0)
        os.write(pumped.stdout, b"\n")
        await asyncio.sleep(0.001)
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 20)
    assert [event.data for event in pumped.events] == [f"{number}\n" for number in range(300)]


async def test_the_rest_of_a_line_is_passed_on_as_soon_as_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.worker.output.REST_OF_LINE_S", 600.0)
    pumped = Pumped()
    running = asyncio.create_task(pumped.pump.run())
    for piece in (b"a ", b"line", b"\n"):
        assert pumped.events == []
        os.write(pumped.stdout, piece)
        for _ in range(3):
            await asyncio.sleep(0)
    assert pumped.text == "a line\n"
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 20)
    assert len(pumped.events) == 1


@either
async def test_a_piece_that_waits_for_its_rest_is_not_overtaken(
    monkeypatch: pytest.MonkeyPatch, *, prompt: bool
) -> None:
    """Neither by the other stream, nor at the end."""
    monkeypatch.setattr("streamer.worker.output.REST_OF_LINE_S", 600.0)
    pumped = Pumped(prompt=prompt)
    stderr = piped(pumped.pump, "stderr")
    running = asyncio.create_task(pumped.pump.run())

    async def write(fd: int, data: bytes) -> None:
        os.write(fd, data)
        for _ in range(5):
            await asyncio.sleep(0)

    await write(pumped.stdout, b"1 ")
    await write(stderr, b"2\n")
    await write(pumped.stdout, b"3 ")
    os.write(pumped.stdout, b"4\n")  # it is there before what follows is read
    await write(stderr, b"5\n")
    await write(stderr, b"6 ")
    os.write(pumped.stdout, b"7\n")
    pumped.pump.read_rest()
    await asyncio.wait_for(running, 20)
    assert [(event.stream, event.data) for event in pumped.events] == [
        ("stdout", "1 "),
        ("stderr", "2\n"),
        ("stdout", "3 4\n"),
        ("stderr", "5\n"),
        ("stderr", "6 "),
        ("stdout", "7\n"),
    ]
    for end in (pumped.stdout, stderr):
        os.close(end)


@pytest.mark.parametrize("how", ["other stream", "timer", "hurry"])
async def test_what_follows_a_held_piece_in_its_pipe_does_not_overtake_the_other_stream(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("streamer.worker.output.REST_OF_LINE_S", 600.0)
    pumped = Pumped()
    stderr = piped(pumped.pump, "stderr")
    running = asyncio.create_task(pumped.pump.run())
    os.write(pumped.stdout, b"1 ")
    while not pumped.pump._piece:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)  # nothing is ready any more
    os.write(stderr, b"2\n")
    os.write(pumped.stdout, b"3\n")
    if how == "timer":
        pumped.pump._ready()
    elif how == "hurry":
        pumped.pump.hurry()
    while len(pumped.events) < 3:
        await asyncio.sleep(0)
    assert [event.data for event in pumped.events] == ["1 ", "2\n", "3\n"]
    for end in (pumped.stdout, stderr):
        os.close(end)
    await asyncio.wait_for(running, 20)


async def test_nothing_is_read_while_the_log_takes_no_events() -> None:
    room = asyncio.Event()

    class Full(Pumped):
        async def write(self, events: Sequence[JobEvent]) -> None:
            await room.wait()
            self.prompt = True
            self.keep(events)

    pumped = Full(prompt=False)
    stderr = piped(pumped.pump, "stderr")
    running = asyncio.create_task(pumped.pump.run())
    os.write(pumped.stdout, b"first\n")
    while waiting_bytes(pumped.pump, 0):
        await asyncio.sleep(0)
    os.write(pumped.stdout, b"second\n")
    os.write(stderr, b"third\n")
    pumped.pump.hurry()
    for _ in range(20):
        await asyncio.sleep(0)
    assert (waiting_bytes(pumped.pump, 0), waiting_bytes(pumped.pump, 1)) == (7, 6)
    assert pumped.events == []
    room.set()
    while len(pumped.events) < 3:
        await asyncio.sleep(0)
    assert pumped.text == "first\nsecond\nthird\n"
    for end in (pumped.stdout, stderr):
        os.close(end)
    await asyncio.wait_for(running, 20)


def waiting_bytes(pump: OutputPump, index: int) -> int:
    """Return how much is in a pipe of the pump."""
    return _waiting_bytes(list(pump._ends)[index])


@pytest.mark.parametrize("how", ["line", "piece", "hurry"])
async def test_an_exception_of_the_log_is_that_of_the_pump(how: str) -> None:
    class Lost(Pumped):
        def write_now(self, events: Sequence[JobEvent]) -> bool:
            raise LeaseLost("gone")

    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    pumped = Lost()
    running = asyncio.create_task(pumped.pump.run())
    os.write(pumped.stdout, b"a line\n" if how == "line" else b"a piece")
    if how == "hurry":
        while waiting_bytes(pumped.pump, 0) or not pumped.pump._piece:
            await asyncio.sleep(0)
        pumped.pump.hurry()
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(running, 20)
    assert unseen == []
    os.write(pumped.stdout, b"more\n")
    for _ in range(5):
        await asyncio.sleep(0)
    assert waiting_bytes(pumped.pump, 0) >= 5, "it is not read any more"
    pumped.pump.close()
    os.close(pumped.stdout)


async def test_a_flood_leaves_the_others_their_turns() -> None:
    """Between two reads of it everything else that is ready has its turn."""
    flooding, other = Pumped(), Pumped()
    fcntl.fcntl(flooding.stdout, fcntl.F_SETPIPE_SZ, 2**20)
    os.write(flooding.stdout, b"x" * 2**20)
    running = [asyncio.create_task(pumped.pump.run()) for pumped in (flooding, other)]
    await asyncio.sleep(0)
    for number in range(1, 6):
        os.write(other.stdout, b"a line\n")
        before = len(flooding.events)
        while len(other.events) < number:
            await asyncio.sleep(0)
        assert len(flooding.events) <= before + 2
    assert len(flooding.text) < 2**20, "it is still at it"
    for pumped in (flooding, other):
        os.close(pumped.stdout)
    await asyncio.wait_for(asyncio.gather(*running), 20)
    assert len(flooding.text) == 2**20


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
    await asyncio.wait_for(running, 20)
    raw = [raw_output(event) for event in pumped.events]
    assert b"".join(raw) == data
    assert max(map(len, raw)) >= READ_BYTES, "as much as is read at once"
    lines = [b"data: " + encode(event)[1] for event in pumped.events]
    assert max(map(len, lines)) < 512 * 1024


@either
async def test_over_the_budget_it_reads_on_and_says_so_once(*, prompt: bool) -> None:
    pumped = Pumped(limit=10, prompt=prompt)
    running = asyncio.create_task(pumped.pump.run())
    await asyncio.to_thread(os.write, pumped.stdout, b"x" * 100_000)
    await asyncio.to_thread(os.write, pumped.stdout, b"y" * 100_000)
    os.close(pumped.stdout)
    await asyncio.wait_for(running, 20)
    assert (pumped.text, pumped.exceeded) == ("x" * 10, 1)


@pytest.mark.parametrize(
    ("typed", "end"),
    [
        (b"", b"\4"),
        (b"a line\n", b"\4"),
        (b"Enter\r", b"\4"),
        (b"the end already\4", b"\4"),
        (b"half a line", b"\4\4"),
        (b"\na character of \xc3\xa4", b"\4\4"),
    ],
)
async def test_the_end_is_typed_once_more_after_half_a_line(typed: bytes, end: bytes) -> None:
    """There the first one only ends the line; elsewhere a second one would end what comes next."""
    reading, feed = feeding(terminal=True)
    feed.offer(typed)
    feed.end()
    assert os.read(reading, 100) == typed + end
    feed.close()
    os.close(reading)


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
    await asyncio.wait_for(writing, 20)
    feed.end()
    assert await asyncio.wait_for(result, 20) == data
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
    async with asyncio.timeout(20):
        await writing
    feed.close()
    os.close(reading)


async def test_a_program_that_closes_its_input_holds_nobody_up() -> None:
    reading, feed = feeding()
    writing = asyncio.create_task(feed.write(bytes(2 * MAX_BACKLOG_BYTES)))
    await asyncio.sleep(0)
    assert not writing.done()
    os.close(reading)
    async with asyncio.timeout(20):
        await writing
    feed.close()


async def test_input_to_a_program_that_has_closed_it_is_dropped() -> None:
    reading, feed = feeding()
    os.close(reading)  # the only one
    await asyncio.wait_for(feed.write(b"x" * (2 * MAX_BACKLOG_BYTES)), 20)
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
        write_now=lambda _: False,
        write=write,
        on_exceeded=lambda: None,
    )
    writing = piped(reading, "stdout")
    running = asyncio.create_task(reading.run())
    await asyncio.sleep(0)
    os.write(writing, b"its own\n")
    reading.read_rest()
    async with asyncio.timeout(20):
        await running
    assert passed.startswith(b"its own\n")
    os.close(writing)


@either
async def test_the_end_of_a_terminal_is_the_end_of_its_output(*, prompt: bool) -> None:
    # Linux tells it as an error (EIO) where a pipe has nothing to read.
    pumped = Pumped(prompt=prompt)
    os.close(pumped.stdout)
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    pumped.pump.add("stdout", ours)
    running = asyncio.create_task(pumped.pump.run())
    os.write(theirs, b"a line\n")
    while "line" not in pumped.text:
        await asyncio.sleep(0)
    os.close(theirs)
    await asyncio.wait_for(running, 20)
    assert pumped.text == "a line\r\n"

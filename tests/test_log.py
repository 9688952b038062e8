from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from streamer.events import Complete, Error, Gap, JobEvent, Output, Status, decode, encode
from streamer.log import MAX_BATCH_BYTES, Event, JobLog

texts = st.text(max_size=40) | st.text(alphabet="\r\n\x00\x85\u2028\u2029:\n data", max_size=40)
sizes = st.sampled_from([0, 1, 100, 5_000, 70_000])
outputs = st.builds(
    lambda stream, text, size, t: Output(stream, text + "x" * size, t, "run"),
    st.sampled_from(["stdout", "stderr"]),
    texts,
    sizes,
    st.integers(min_value=0, max_value=10**9),
)
informational: st.SearchStrategy[JobEvent] = outputs | st.builds(
    Status, st.sampled_from(["queued", "preparing", "compiling", "running"]), st.just(5)
)


def complete() -> Complete:
    return Complete(
        reason="exited",
        exit_code=0,
        signal=None,
        duration_ms=1,
        cpu_time_ms=1,
        peak_memory_bytes=None,
        timed_out=False,
        oom_killed=False,
        output_bytes=0,
        output_truncated=False,
        sandbox="plain",
        phase="run",
    )


def parse_stream(data: bytes) -> Iterator[tuple[int, str, JobEvent]]:
    """Parse as the EventSource specification says, and refuse what it would drop."""
    fields: dict[str, str] = {}
    # The specification splits on these three and on nothing else.
    for line in data.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line:
            name, colon, value = line.partition(":")
            assert colon
            assert name not in fields, "one line a field"
            fields[name] = value.removeprefix(" ")
        elif fields:
            assert list(fields) == ["event", "data", "id"]
            kind = fields["event"]
            yield int(fields["id"]), kind, decode(kind, fields["data"].encode())
            fields = {}
    assert not fields, "the last event is cut"


def read_all(log: JobLog, after: int) -> list[tuple[int, str, JobEvent]]:
    """Follow the log by `read` until there is nothing new."""
    found: list[tuple[int, str, JobEvent]] = []
    while True:
        data, last = log.read(after)
        if not data:
            return found
        batch = list(parse_stream(data))
        assert batch, "data without an event"
        assert last == batch[-1][0]
        assert last > after, "a read that gives data gets further"
        found += batch
        after = last


class LogModel(RuleBasedStateMachine):
    """A log and a plain list of what was appended to it, with readers at any place."""

    @initialize()
    def start(self) -> None:
        self.log = JobLog()
        self.events: list[JobEvent] = []
        self.dropped = 0
        self.readers: dict[int, list[tuple[int, str, JobEvent]]] = {}

    @precondition(lambda self: not self.log.done)
    @rule(events=st.lists(informational, max_size=4))
    def append(self, events: list[JobEvent]) -> None:
        self.log.append([encode(event) for event in events])
        self.events += events

    @precondition(lambda self: not self.log.done)
    @rule(events=st.lists(informational, max_size=2), lost=st.booleans())
    def finish(self, events: list[JobEvent], *, lost: bool) -> None:
        end: JobEvent = Error("worker_lost", "gone") if lost else complete()
        self.log.append([encode(event) for event in [*events, end]])
        self.events += [*events, end]

    @precondition(lambda self: self.log.done)
    @rule(event=informational)
    def append_after_the_end(self, event: JobEvent) -> None:
        with pytest.raises(RuntimeError, match="has ended"):
            self.log.append([encode(event)])

    @rule(size=st.integers(min_value=0, max_value=200_000))
    def drop(self, size: int) -> None:
        before = self.log.size_bytes
        dropped = self.log.drop(size)
        assert self.log.size_bytes == before - dropped
        assert dropped >= size or self.log.first_id == self.log.last_id or not self.events
        self.dropped = self.log.first_id - 1

    @rule(data=st.data())
    def read_from_anywhere(self, data: st.DataObject) -> None:
        after = data.draw(st.integers(min_value=0, max_value=len(self.events) + 2))
        found = read_all(self.log, after)
        if after >= len(self.events):
            assert found == []
        elif after < self.dropped and found[0][1] == "gap":
            gap = found[0][2]
            assert isinstance(gap, Gap)
            assert gap.from_ == after + 1
            assert (found[0][0], gap.to) == (self.dropped, self.dropped)
            self._check(found[1:], self.dropped)
        else:
            # What is gone may still come from the slice that readers in step share.
            self._check(found, after)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """One step of a reader that stays: its events are dense, or a gap says what is not."""
        after = data.draw(st.sampled_from([0, *self.readers]))
        seen = self.readers.pop(after, [])
        batch, last = self.log.read(after)
        if batch:
            seen = seen + list(parse_stream(batch))
            self.readers[last] = seen
        expected = 1
        for number, kind, event in seen:
            if kind == "gap":
                assert isinstance(event, Gap)
                assert (event.from_, event.to) == (expected, number)
            else:
                assert number == expected
                assert event == self.events[number - 1]
            expected = number + 1

    def _check(self, found: list[tuple[int, str, JobEvent]], after: int) -> None:
        assert [number for number, _, _ in found] == list(range(after + 1, len(self.events) + 1))
        assert [event for _, _, event in found] == self.events[after:]

    @invariant()
    def counts_hold(self) -> None:
        assert self.log.last_id == len(self.events)
        assert self.log.first_id == self.dropped + 1
        kept = list(self.log.entries())
        assert [(e.id, e.data) for e in kept] == list(
            enumerate(self.events[self.dropped :], self.dropped + 1)
        )
        assert self.log.size_bytes == sum(len(frame) for frame in self.log._frames)
        assert not self.events or kept, "the newest event always stays"


LogModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestLogModel = LogModel.TestCase


@given(texts)
def test_output_cannot_forge_a_frame(text: str) -> None:
    log = JobLog()
    log.append([encode(Output("stdout", text, 0, "run"))])
    data, _ = log.read(0)
    [(number, kind, event)] = parse_stream(data)
    assert (number, kind) == (1, "output")
    assert isinstance(event, Output)
    assert event.data == text
    # Some clients split with str.splitlines, which knows more line ends.
    assert len(data.decode().splitlines()) == 4


def test_a_batch_ends_soon_after_its_size() -> None:
    log = JobLog()
    for number in range(100):
        log.append([encode(Output("stdout", "x" * 8000, number, "run"))])
    data, _ = log.read(0)
    assert MAX_BATCH_BYTES <= len(data) < MAX_BATCH_BYTES + 9000


def test_the_gap_of_one_reader_is_not_shown_to_another() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(50)])
    log.drop(10_000)
    late = next(parse_stream(log.read(0)[0]))
    in_step = next(parse_stream(log.read(log.first_id - 1)[0]))
    assert (late[1], in_step[1]) == ("gap", "output")
    assert in_step[0] == log.first_id


def test_what_follows_the_terminal_event_in_one_append_is_not_kept() -> None:
    log = JobLog()
    log.append([encode(complete()), encode(Output("stdout", "late", 0, "run"))])
    assert [event.kind for event in log.entries()] == ["complete"]
    assert log.done


def test_entries_keep_their_numbers_when_old_ones_are_dropped_meanwhile() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", str(number), 0, "run")) for number in range(1, 6)])
    entries = log.entries()
    seen = [next(entries)]
    log.drop(log.size_bytes)
    seen += entries
    assert [(event.id, event.data) for event in seen] == [
        (number, Output("stdout", str(number), 0, "run")) for number in range(1, 6)
    ]


async def test_events_follow_a_live_log_to_its_end() -> None:
    log = JobLog()

    async def follow(after: int) -> list[Event]:
        return [event async for event in log.events(after)]

    readers = [asyncio.create_task(follow(after)) for after in (0, 0, 2)]
    for number in range(5):
        log.append([encode(Output("stdout", str(number), 0, "run"))])
        await asyncio.sleep(0)
    log.append([encode(complete())])
    first, second, third = await asyncio.gather(*readers)
    assert [event.id for event in first] == [1, 2, 3, 4, 5, 6]
    assert first == second
    assert third == first[2:]
    assert await follow(6) == []
    assert await follow(99) == []


async def test_events_tell_a_slow_reader_what_it_missed() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "a", 0, "run"))])
    events = log.events()
    assert (await anext(events)).id == 1
    log.append([encode(Output("stdout", text, 0, "run")) for text in "bcde"])
    log.drop(log.size_bytes)
    missed = await anext(events)
    assert (missed.id, missed.data) == (4, Gap(from_=2, to=4))
    assert (await anext(events)).id == 5


async def test_wait_returns_at_once_when_there_is_something() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "a", 0, "run"))])
    assert await log.wait(0, timeout_s=0.001)
    log.append([encode(complete())])
    assert await log.wait(2)
    assert await log.wait(99)


async def test_wait_gives_up_in_time_and_leaves_nothing_behind() -> None:
    log = JobLog()
    started = time.monotonic()
    assert not await log.wait(0, timeout_s=0.01)
    assert 0.009 <= time.monotonic() - started < 5
    assert not log._waiters


async def test_a_reader_that_leaves_takes_no_other_with_it() -> None:
    log = JobLog()
    leaving, staying = (asyncio.create_task(log.wait(0)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert not staying.done()
    log.append([encode(Output("stdout", "a", 0, "run"))])
    assert await staying
    assert not log._waiters

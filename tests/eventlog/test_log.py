from __future__ import annotations

import asyncio
import errno
import itertools
import os
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
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

from streamer.eventlog.block import RUN_BYTES, Ledger
from streamer.eventlog.frames import frame, gap_frame
from streamer.eventlog.joblog import JobLog
from streamer.eventlog.log import BLOCK_BYTES, INDEX_BYTES, SMALL_BYTES, Cursor, EventLog
from streamer.eventlog.pages import PAGE_BYTES, Pages, Run
from streamer.eventlog.spool import (
    MOST_PARTS,
    MOST_PAUSE_S,
    PAUSE_S,
    THREADS,
    Extent,
    Spool,
)
from streamer.eventlog.view import LogView
from streamer.model.events import (
    LARGE_CHARS,
    Complete,
    Error,
    Event,
    Gap,
    JobEvent,
    Output,
    Status,
    decode,
    encode,
)
from tests.running import descriptors

T = TypeVar("T")

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
    """Parse by the EventSource specification, and refuse anything that it would drop."""
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


async def read_all(log: JobLog, after: int) -> list[tuple[int, str, JobEvent]]:
    """Follow the log by `read` until there is nothing new."""
    found: list[tuple[int, str, JobEvent]] = []
    while True:
        data, last = await log.read(after)
        if not data:
            return found
        batch = list(parse_stream(data))
        assert batch, "data without an event"
        assert last == batch[-1][0]
        assert last > after, "a read that gives data gets further"
        found += batch
        after = last


class LogModel(RuleBasedStateMachine):
    """A log and a plain list of what was appended to it, with readers at any place.

    Old events go to disk and come back, or find no room there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def teardown(self) -> None:
        self.log.retire()
        assert (self.ledger.memory, self.ledger.disk) == (0, 0)
        self.spool.close()
        assert self.spool.used_bytes == 0
        self.runner.close()
        self.folder.cleanup()

    @initialize(room=st.sampled_from([0, 100_000, 200_000, 10_000_000]))
    def start(self, room: int) -> None:
        self.ledger = Ledger()
        self.spool = Spool(room, Path(self.folder.name))
        self.log = JobLog(spool=self.spool, ledger=self.ledger)
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
    def spill(self, size: int) -> None:
        memory, disk, scattered = self.log.memory_bytes, self.log.disk_bytes, self._scattered()
        moved = self.run(self.log.spill(size))
        assert self.log.disk_bytes == disk + moved
        # Joined frames take less than separate ones, so even without disk it may be less.
        more = INDEX_BYTES + RUN_BYTES * (self._scattered() - scattered)
        assert self.log.memory_bytes <= memory - moved + more

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
        found = self.run(read_all(self.log, after))
        if after >= len(self.events):
            assert found == []
        elif after < self.dropped and found[0][1] == "gap":
            gap = found[0][2]
            assert isinstance(gap, Gap)
            assert gap.from_ == after + 1
            assert (found[0][0], gap.to) == (self.dropped, self.dropped)
            self._check(found[1:], self.dropped)
        else:
            # Dropped events may still come from the slice that readers in step share.
            self._check(found, after)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """One step of a permanent reader: its events are consecutive, or a gap names the lost ones."""
        after = data.draw(st.sampled_from([0, *self.readers]))
        seen = self.readers.pop(after, [])
        batch, last = self.run(self.log.read(after))
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

    def _scattered(self) -> int:
        """How many runs of pages there are beyond one for each block."""
        extents = [block.data for block in self.log._blocks if isinstance(block.data, Extent)]
        return sum(len(extent.runs) - 1 for extent in extents)

    def _check(self, found: list[tuple[int, str, JobEvent]], after: int) -> None:
        assert [number for number, _, _ in found] == list(range(after + 1, len(self.events) + 1))
        assert [event for _, _, event in found] == self.events[after:]

    @invariant()
    def counts_hold(self) -> None:
        assert self.log.last_id == len(self.events)
        assert self.log.first_id == self.dropped + 1
        kept = self.run(collect(self.log.entries(self.dropped)))
        assert [(e.id, e.data) for e in kept] == list(
            enumerate(self.events[self.dropped :], self.dropped + 1)
        )
        assert (self.ledger.memory, self.ledger.disk) == (
            self.log.memory_bytes,
            self.log.disk_bytes,
        )
        blocks = self.log._blocks
        in_blocks = sum(len(block.data) for block in blocks if isinstance(block.data, bytes))
        copied = 0 if self.log._memo is None else len(self.log._memo[1])
        index = len(blocks) * INDEX_BYTES + self._scattered() * RUN_BYTES
        assert self.log.memory_bytes == self.log._tail_bytes + in_blocks + copied + index
        assert self.log.frames_bytes == self.log.memory_bytes - index
        assert copied <= BLOCK_BYTES + max(map(len, self.log._tail), default=0)
        assert not (self.log.done and copied), "who comes late shares no copy"
        on_disk = [isinstance(block.data, Extent) for block in blocks]
        assert on_disk == sorted(on_disk, reverse=True), "what is on disk is the oldest"
        assert self.log._on_disk == sum(on_disk)
        assert self.log.disk_bytes == sum(b.size for b in blocks if isinstance(b.data, Extent))
        goes = self.log.done and len(self.log._tail) > 1 and self.log._tail_bytes > SMALL_BYTES
        tail = self.log._tail_bytes if goes else 0
        assert self.log.spillable_bytes == in_blocks + tail
        assert not self.events or kept, "the newest event always stays"


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


LogModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestLogModel = pytest.mark.slow(LogModel.TestCase)


@pytest.mark.slow
@given(texts)
def test_output_cannot_forge_a_frame(text: str) -> None:
    log = JobLog()
    log.append([encode(Output("stdout", text, 0, "run"))])
    data, _ = asyncio.run(log.read(0))
    [(number, kind, event)] = parse_stream(data)
    assert (number, kind) == (1, "output")
    assert isinstance(event, Output)
    assert event.data == text
    # Some clients split with str.splitlines, which splits at more characters.
    assert len(data.decode().splitlines()) == 4


@given(
    st.builds(
        Output,
        st.sampled_from(["stdout", "stderr"]),
        st.text(max_size=20).map(lambda text: text * (LARGE_CHARS // max(len(text), 1) + 2)),
        st.integers(0, 10**9),
        st.sampled_from(["compile", "run"]),
        st.booleans(),
        st.sampled_from([None, "base64"]),
    )
)
def test_a_large_output_is_encoded_like_any_other(event: Output) -> None:
    kind, data = encode(event)
    assert (kind, decode(kind, data)) == ("output", event)
    assert len(event.data) > LARGE_CHARS or not event.data
    plain = msgspec.json.encode(event)
    for raw, escaped in ("\x85", b"\\u0085"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"):
        plain = plain.replace(raw.encode(), escaped)
    assert data == plain


async def test_a_read_ends_soon_after_its_size() -> None:
    log = JobLog()
    for number in range(100):
        log.append([encode(Output("stdout", "x" * 8000, number, "run"))])
    data, _ = await log.read(0)
    assert BLOCK_BYTES - 9000 <= len(data) < BLOCK_BYTES + 9000


async def test_readers_in_step_are_given_the_same_bytes() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(12)])
    for after in (0, 9):
        first, _ = await log.read(after)
        second, _ = await log.read(after)
        assert first is second


async def test_the_gap_of_one_reader_is_not_shown_to_another() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(50)])
    log.drop(10_000)
    late = next(parse_stream((await log.read(0))[0]))
    in_step = next(parse_stream((await log.read(log.first_id - 1))[0]))
    assert (late[1], in_step[1]) == ("gap", "output")
    assert in_step[0] == log.first_id


async def test_what_follows_the_terminal_event_in_one_append_is_not_kept() -> None:
    log = JobLog()
    log.append([encode(complete()), encode(Output("stdout", "late", 0, "run"))])
    assert [event.kind async for event in log.entries()] == ["complete"]
    assert log.done
    assert log.end == complete()


class Declared:
    """A log with nothing but what `LogView` declares."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        if name not in vars(LogView):
            raise AttributeError(name)
        return getattr(self._log, name)


async def test_a_cursor_needs_only_what_a_view_declares() -> None:
    log = EventLog()
    log.append([("e", b"x"), ("e", b"y")])
    view: LogView = Declared(log)
    cursor = Cursor(view, 0)
    assert (cursor.lag, cursor.at_end) == (2, False)
    data, last = await cursor.read()
    assert data == frame("e", b"x", 1) + frame("e", b"y", 2)
    cursor.advance(last)
    assert (cursor.lag, cursor.position) == (0, 2)


async def at_the_disk() -> None:
    """Let what reads from the spool come to where it waits for the disk."""
    for _ in range(2):
        await asyncio.sleep(0)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of the spool be in the page cache: every read waits for the disk."""
    monkeypatch.setattr("streamer.eventlog.spool._read_now", lambda *_: None)


@pytest.mark.usefixtures("cold")
async def test_events_that_are_dropped_under_a_reader_are_said_to_be_gone(tmp_path: Path) -> None:
    spool = Spool(10_000_000, tmp_path)
    log = JobLog(spool=spool)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    assert await log.spill(400_000) >= 400_000
    reading = asyncio.create_task(log.read(0))
    await at_the_disk()
    log.drop(log.size_bytes)
    data, last = await reading
    numbers = [number for number, kind, _ in parse_stream(data) if kind == "output"]
    assert numbers == list(range(1, last + 1)), "what was being read is read"
    assert [event.kind async for event in log.entries(last)] == ["gap", "output"]
    log.retire()
    spool.close()


async def test_a_retired_log_is_kept_for_who_reads_it_and_no_longer(tmp_path: Path) -> None:
    spool, ledger = Spool(10_000_000, tmp_path), Ledger()
    log = JobLog(spool=spool, ledger=ledger)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    log.append([encode(complete())])
    await log.spill(400_000)
    with log.cursor() as cursor:
        log.retire()
        seen: list[int] = []
        while not cursor.at_end:
            data, last = await cursor.read()
            seen += [number for number, _, _ in parse_stream(data)]
            cursor.advance(last)
        assert seen == list(range(1, 102))
        assert ledger.disk > 0
    assert (ledger.memory, ledger.disk) == (0, 0)
    spool.close()
    assert spool.used_bytes == 0
    await until_closed(tmp_path)


async def test_what_is_freed_on_disk_is_used_again_at_once(tmp_path: Path) -> None:
    """A long-lived log must not prevent that pages freed by others are used again."""
    spool = Spool(64 * PAGE_BYTES, tmp_path)
    pinned: list[tuple[bytes, Extent]] = []
    for number in range(12):
        small, large = bytes([number]) * 100, bytes([100 + number]) * (4 * PAGE_BYTES + 1)
        extents = await spool.write([small, large])
        assert len(extents) == 2
        pinned.append((small, extents[0]))
        assert spool.used_bytes == (len(pinned) + 5) * PAGE_BYTES
        spool.free(extents[1])
    assert spool.used_bytes == 12 * PAGE_BYTES
    big = b"x" * (52 * PAGE_BYTES)
    [extent] = await spool.write([big])
    assert await spool.read(extent) == big, "in all the holes between"
    assert await spool.write([b"x"]) == []
    for piece, small_extent in pinned:
        assert await spool.read(small_extent) == piece
        spool.free(small_extent)
    assert len(open_nameless_files(tmp_path)) == 1
    spool.free(extent)
    assert spool.used_bytes == 0
    await until_closed(tmp_path)  # an empty file is given back
    assert len(await spool.write([b"x"])) == 1
    spool.close()
    await until_closed(tmp_path)


@pytest.mark.usefixtures("cold")
async def test_what_is_being_read_is_not_written_over(tmp_path: Path) -> None:
    spool = Spool(16 * PAGE_BYTES, tmp_path)
    for _ in range(50):
        [extent] = await spool.write([b"a" * (16 * PAGE_BYTES)])
        reading = asyncio.create_task(spool.read(extent))
        await at_the_disk()
        spool.free(extent)
        for other in await spool.write([b"b" * PAGE_BYTES]):
            spool.free(other)
        assert await reading == b"a" * (16 * PAGE_BYTES)
        for again in await spool.write([b"c" * (16 * PAGE_BYTES)]):
            spool.free(again)
    spool.close()


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30), st.integers(0, 10**6)), max_size=80))
def test_pages_are_nobodys_or_one_things(plan: list[tuple[bool, int, int]]) -> None:
    pages = Pages(100)
    taken: list[list[Run]] = []
    used: set[int] = set()
    for taking, count, choice in plan:
        if taking:
            runs = pages.take(count)
            first = [number for number in range(100) if number not in used][:count]
            # The file is as short as possible, and all free pages can be allocated.
            assert _numbers(runs) == (first if len(first) == count else [])
            taken += [runs] if runs else []
        elif taken:
            pages.give_back(taken.pop(choice % len(taken)))
        in_use = [number for runs in taken for number in _numbers(runs)]
        used = set(in_use)
        assert len(in_use) == len(used) == pages.used
    for runs in taken:
        pages.give_back(runs)
    assert (pages.used, pages._free) == (0, [(0, 100)])


def _numbers(runs: list[Run]) -> list[int]:
    return [number for first, length in runs for number in range(first, first + length)]


@pytest.mark.parametrize("cached", [False, True])
async def test_few_pieces_are_read_from_disk_before_their_readers_come_to_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cached: bool
) -> None:
    """While the loop is busy, threads would otherwise read for all readers."""
    if not cached:
        monkeypatch.setattr("streamer.eventlog.spool._read_now", lambda *_: None)
    readers, size = 200, BLOCK_BYTES
    spool = Spool(readers * size, tmp_path)
    extents = await spool.write([b"x" * size for _ in range(readers)])
    held: list[int] = []

    async def read(extent: Extent) -> None:
        data = await spool.read(extent)
        held.append(tracemalloc.get_traced_memory()[0])
        assert len(data) == size
        # The loop is busy until the threads have finished all that they were given.
        THREADS.submit(len, "").result()

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await asyncio.gather(*map(read, extents))
    finally:
        tracemalloc.stop()
    assert len(held) == readers
    assert max(held) - before < 20 * size
    for extent in extents:
        spool.free(extent)
    spool.close()


@pytest.mark.usefixtures("cold")
async def test_who_waits_for_the_disk_reads_nothing_that_was_freed_meanwhile(
    tmp_path: Path,
) -> None:
    spool = Spool(64 * PAGE_BYTES, tmp_path)
    extents = await spool.write([b"a" * PAGE_BYTES for _ in range(64)])
    readings = [asyncio.create_task(spool.read(extent)) for extent in extents]
    await at_the_disk()  # the first ones
    for extent in extents:
        spool.free(extent)
    others = await spool.write([b"b" * PAGE_BYTES for _ in range(32)])
    found = await asyncio.gather(*readings, return_exceptions=True)
    assert others
    read = [data for data in found if not isinstance(data, OSError)]
    assert set(read) == {b"a" * PAGE_BYTES}
    assert len(read) < len(found)
    spool.close()


async def test_a_disk_that_fails_is_told_by_a_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(10_000_000, tmp_path)
    log = JobLog(spool=spool)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    await log.spill(200_000)
    spool.close()
    (first, *rest) = [event async for event in log.entries()]
    assert first.kind == "gap"
    assert [event.id for event in rest] == list(range(first.id + 1, 101))
    none = Spool(0, tmp_path)
    assert await none.write([b"x"]) == []
    await until_closed(tmp_path)
    gone = Spool(10_000_000, tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        await gone.write([b"x"])
    with pytest.raises(OSError, match="earlier write"):
        await gone.write([b"x"])
    assert gone.used_bytes == 0
    assert caplog.text.count("cannot be kept on disk") == 1


class Failing:
    """The module `os` for a disk on which some system calls fail with EIO."""

    def __init__(self, *calls: str) -> None:
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        return self._fail if name in self.calls else getattr(os, name)

    def _fail(self, *_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_a_read_that_fails_takes_nothing_from_other_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, ledger = Spool(10_000_000, tmp_path), Ledger()
    log = JobLog(spool=spool, ledger=ledger)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    await log.spill(400_000)
    on_disk = ledger.disk
    _, after = await log.read(0)
    with monkeypatch.context() as patch:
        patch.setattr("streamer.eventlog.spool.os", Failing("pread", "preadv"))
        gap, *rest = [event async for event in log.entries(after)]
    assert isinstance(gap.data, Gap)
    assert (gap.data.from_, gap.data.to) == (after + 1, gap.id)
    assert [event.id for event in rest] == list(range(gap.id + 1, 101))
    assert [event.id async for event in log.entries()] == list(range(1, 101))
    assert ledger.disk == on_disk
    log.retire()
    spool.close()


async def test_a_gap_begins_where_its_reader_is_though_more_is_lost_meanwhile(
    tmp_path: Path,
) -> None:
    spool = Spool(10_000_000, tmp_path)
    log = JobLog(spool=spool)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    await log.spill(200_000)
    log.drop(100_000)
    spool.close()  # what is on disk is lost too
    first = await anext(log.entries())
    assert isinstance(first.data, Gap)
    assert (first.data.from_, first.data.to) == (1, first.id)


async def test_freed_pages_are_used_again_on_a_disk_that_others_have_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(64 * PAGE_BYTES, tmp_path)
    old, kept = await spool.write([b"a" * (4 * PAGE_BYTES), b"b"])
    spool.free(old)
    monkeypatch.setattr("streamer.eventlog.spool.LEAST_FREE", 1.1)
    [again] = await spool.write([b"c" * (4 * PAGE_BYTES)])
    assert await spool.read(again) == b"c" * (4 * PAGE_BYTES)
    assert await spool.write([b"d"]) == [], "the file must not grow"
    spool.free(again, kept)
    spool.close()


async def test_who_stops_waiting_for_the_disk_leaves_nothing_there(tmp_path: Path) -> None:
    spool, ledger = Spool(10_000_000, tmp_path), Ledger()
    log = JobLog(spool=spool, ledger=ledger)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    for _ in range(20):
        spilling = asyncio.create_task(log.spill(100_000))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        spilling.cancel()
        await asyncio.gather(spilling, return_exceptions=True)
    assert [event.id async for event in log.entries()] == list(range(1, 101))
    assert (ledger.memory, ledger.disk) == (log.memory_bytes, log.disk_bytes)
    log.append([encode(complete())])
    tail = log._tail_bytes
    spilling = asyncio.create_task(log.spill(10**9))
    await asyncio.sleep(0)
    spilling.cancel()
    await asyncio.gather(spilling, return_exceptions=True)
    assert log._tail_bytes < tail, "it was sealed to go to disk"
    blocks = sum(len(b.data) for b in log._blocks if isinstance(b.data, bytes))
    assert log.frames_bytes == log._tail_bytes + blocks
    log.retire()
    spool.close()
    assert (ledger.memory, ledger.disk) == (0, 0)


class Watched:
    """The module `os`, but its calls fail if they come from the event loop's thread."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found):
            return found

        def call(*args: Any) -> Any:
            here = threading.current_thread() is threading.main_thread()
            assert not here or (name == "preadv" and args[-1] == os.RWF_NOWAIT), name
            self.called.add(name)
            return found(*args)

        return call


async def test_no_call_that_may_wait_for_the_disk_is_made_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    monkeypatch.setattr("streamer.eventlog.spool.os", watched)
    spool = Spool(10_000_000, tmp_path)
    log = JobLog(spool=spool)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    log.append([encode(complete())])
    assert await log.spill(10**9)
    assert [event.id async for event in log.entries()] == list(range(1, 102))
    monkeypatch.setattr("streamer.eventlog.spool._read_now", lambda *_: None)
    assert [event.id async for event in log.entries()] == list(range(1, 102))
    log.retire()
    await until_closed(tmp_path)
    [_] = await spool.write([b"x"])
    spool.close()
    await until_closed(tmp_path)
    assert watched.called >= {"open", "fstatvfs", "pwritev", "preadv", "pread", "close"}


async def test_a_write_that_fails_in_the_middle_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def pwritev(self, fd: int, parts: list[memoryview], at: int) -> int:
            self.calls += 1
            return os.pwritev(fd, parts if self.calls < 3 else [parts[0][:10]], at)

    spool, ledger = Spool(10_000_000, tmp_path), Ledger()
    log = JobLog(spool=spool, ledger=ledger)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    memory = log.memory_bytes
    with monkeypatch.context() as patch:
        patch.setattr("streamer.eventlog.spool.MOST_PARTS", 8)  # several calls
        patch.setattr("streamer.eventlog.spool.os", Full())
        assert await log.spill(10**9) == 0
    assert "No space left on device" in caplog.text
    assert (spool.used_bytes, ledger.disk, ledger.memory) == (0, 0, memory)
    assert await log.spill(10**9) == ledger.disk > 600_000
    assert [event.id async for event in log.entries()] == list(range(1, 101))
    log.retire()
    spool.close()


class Trying:
    """The module `os`, and the clock, for a disk whose writes take their time, or fail at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tries = 0
        self.failing = False
        self.answers = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def pwritev(self, fd: int, parts: list[memoryview], at: int) -> int:
        self.tries += 1
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.answers.wait(60)
        return os.pwritev(fd, parts, at)

    async def tried(self, spool: Spool, seconds: float) -> list[bool]:
        """Write once at the end of each second; return whether the disk was tried."""
        found = []
        for _ in range(int(seconds)):
            self.now += 1
            before = self.tries
            with pytest.raises(OSError, match=r"write|output"):
                await spool.write([b"x" * 5000])
            found.append(self.tries > before)
            assert spool.used_bytes <= 2 * PAGE_BYTES, "but for what is being written"
        return found


@pytest.fixture
def trying(monkeypatch: pytest.MonkeyPatch) -> Trying:
    disk = Trying()
    monkeypatch.setattr("streamer.eventlog.spool.os", disk)
    monkeypatch.setattr("streamer.eventlog.spool.monotonic", lambda: disk.now)
    return disk


async def test_a_disk_that_fails_is_tried_ever_less_often(tmp_path: Path, trying: Trying) -> None:
    trying.failing = True
    spool = Spool(10_000_000, tmp_path)
    tried = await trying.tried(spool, 1000)
    gaps = [second for second, now in enumerate(tried) if now]
    assert gaps[:7] == [0, 1, 3, 7, 15, 31, 63]
    assert {b - a for a, b in itertools.pairwise(gaps[6:])} == {int(MOST_PAUSE_S)}
    trying.failing = False
    trying.answers.set()
    trying.now += MOST_PAUSE_S
    (extent,) = await spool.write([b"y" * 5000])
    assert await spool.read(extent) == b"y" * 5000
    trying.failing = True
    assert await trying.tried(spool, 4) == [True, True, False, True], "it begins anew"
    spool.close()


async def test_a_disk_that_hung_is_left_alone_for_a_while(
    tmp_path: Path, trying: Trying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt may take ten seconds, in which no other log is written."""
    monkeypatch.setattr("streamer.eventlog.spool.WRITE_S", 0.05)
    spool = Spool(10_000_000, tmp_path)
    assert await trying.tried(spool, 500) == [True] + 499 * [False]
    trying.answers.set()
    async with asyncio.timeout(20):
        while spool.used_bytes:
            await asyncio.sleep(0)
    trying.now += PAUSE_S / 2
    with pytest.raises(OSError, match="earlier write"):
        await spool.write([b"x"])
    trying.now += PAUSE_S / 2
    (_,) = await spool.write([b"x"])
    spool.close()


async def test_consecutive_pieces_are_written_with_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two calls the thread waits for a busy event loop, each time for milliseconds."""
    written: list[tuple[int, int]] = []

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def pwritev(self, fd: int, parts: list[memoryview], at: int) -> int:
            written.append((at, len(parts)))
            return os.pwritev(fd, parts, at)

    monkeypatch.setattr("streamer.eventlog.spool.os", Counted())
    spool = Spool(10_000_000, tmp_path)
    pieces = [bytes([number]) * (number * 700 + 1) for number in range(30)]
    extents = await spool.write(pieces)
    assert [at for at, _ in written] == [0]
    assert [await spool.read(extent) for extent in extents] == pieces
    # Two holes, of the pages of one piece each, and then the end of the file.
    spool.free(extents[10], extents[20])
    written.clear()
    more = [b"x" * 9000, b"y" * 15_000, *(b"z" for _ in range(MOST_PARTS))]
    again = await spool.write(more)
    starts = [at // PAGE_BYTES for at, _ in written]
    assert starts == sorted(starts)
    assert len(written) == 2 + 3
    assert max(count for _, count in written) <= MOST_PARTS
    assert [await spool.read(extent) for extent in again] == more
    kept = [(e, p) for e, p in zip(extents, pieces, strict=True) if not e.freed]
    assert [await spool.read(extent) for extent, _ in kept] == [piece for _, piece in kept]
    spool.free(*again, *(extent for extent, _ in kept))
    spool.close()


def open_nameless_files(folder: Path) -> list[str]:
    return [name for name in descriptors().values() if name.startswith(str(folder))]


async def until_closed(folder: Path) -> None:
    """Wait until no file is open there: it is closed in a thread."""
    async with asyncio.timeout(20):
        while open_nameless_files(folder):
            await asyncio.sleep(0)


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


async def test_listeners_are_called_once_after_the_appends_of_a_moment() -> None:
    log = EventLog()
    heard: list[int] = []

    def listen() -> None:
        heard.append(log.last_id)

    def leave() -> None:
        log.unlisten(leave)

    log.listen(leave)
    log.listen(listen)
    for _ in range(3):
        log.append([("e", b"x")])
        assert heard == [], "an append calls nobody by itself"
    await asyncio.sleep(0)
    assert heard == [3]
    log.append([("e", b"x")])
    await asyncio.sleep(0)
    assert heard == [3, 4]
    log.append([("e", b"x")])
    log.unlisten(listen)
    await asyncio.sleep(0)
    assert heard == [3, 4]


async def test_an_append_from_another_thread_fails_and_silences_nobody() -> None:
    log = EventLog()
    heard: list[int] = []
    log.listen(lambda: heard.append(log.last_id))
    with pytest.raises(RuntimeError, match="no running event loop"):
        await asyncio.to_thread(log.append, [("e", b"x")])
    log.append([("e", b"y")])
    await asyncio.sleep(0)
    assert heard == [2]


async def test_what_the_system_has_in_memory_is_read_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(200 * PAGE_BYTES, tmp_path)
    pieces = [bytes([number]) * (number * 500 + 1) for number in range(40)]
    extents = await spool.write(pieces)
    spool.free(*extents[::2])
    # In all the holes between.
    more = [b"x" * (20 * PAGE_BYTES - 5)]
    found = [*zip(extents[1::2], pieces[1::2], strict=True)]
    found += zip(await spool.write(more), more, strict=True)
    assert len(found[-1][0].runs) > 3
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    with monkeypatch.context() as patch:
        patch.setattr("streamer.eventlog.spool._read", None)
        for extent, piece in found:
            before = others
            data = await spool.read(extent)
            assert (data, type(data)) == (piece, bytes)
            assert others > before, "who reads does not keep the others from their turns"
    counting.cancel()

    class Partly:
        """The module `os` for a system that has only a part in memory, or cannot tell."""

        def __init__(self, answer: int) -> None:
            self.answer = answer

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def preadv(self, *_: object) -> int:
            if self.answer > 0:
                return self.answer
            raise OSError(-self.answer, os.strerror(-self.answer))

    for answer in (1, -errno.EAGAIN, -errno.EOPNOTSUPP):
        monkeypatch.setattr("streamer.eventlog.spool.os", Partly(answer))
        for extent, piece in found:
            assert await spool.read(extent) == piece
    spool.close()


async def test_a_read_that_hangs_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(10_000_000, tmp_path)
    (extent,) = await spool.write([b"x" * 5000])
    answers = threading.Event()

    def hang(*_: object) -> bytes:
        answers.wait(60)
        return b""

    with monkeypatch.context() as patch:
        patch.setattr("streamer.eventlog.spool.READ_S", 0.05)
        patch.setattr("streamer.eventlog.spool._read", hang)
        patch.setattr("streamer.eventlog.spool._read_now", lambda *_: None)
        for _ in range(20):  # more than may read at a time
            with pytest.raises(OSError, match="a read takes longer"):
                await asyncio.wait_for(spool.read(extent), 30)
    answers.set()
    assert await asyncio.wait_for(spool.read(extent), 30) == b"x" * 5000
    spool.close()


async def test_what_is_read_now_is_what_would_be_read(tmp_path: Path) -> None:
    spool = Spool(10_000_000, tmp_path)
    log = EventLog(spool=spool)
    assert log.read_now(0) == (b"", 0)
    log.append([("e", b"x" * 30_000) for _ in range(10)])
    await log.spill(100_000)
    for after in range(12):
        found = log.read_now(after)
        if after + 1 < log._tail_first:
            assert found is None, "in a block, which may be on disk"
        else:
            assert found == await log.read(after)
            assert found[1] == max(after, 10), "everything that is new"
    log.drop_before(9)
    spool.close()


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


async def test_an_empty_log_stays_as_it_is_when_events_are_dropped() -> None:
    log = JobLog()
    log.drop_before(1)
    log.drop_before(5)
    log.drop(100)
    assert (log.first_id, log.last_id) == (1, 0)
    log.append([encode(Output("stdout", "a", 0, "run"))])
    assert [event.id async for event in log.entries()] == [1]


async def test_a_finished_log_moves_as_much_to_disk_as_is_asked(tmp_path: Path) -> None:
    spool = Spool(10_000_000, tmp_path)
    log = JobLog(spool=spool)
    log.append([encode(Output("stdout", "x" * 8000, number, "run")) for number in range(100)])
    log.append([encode(complete())])
    assert await log.spill(400_000) >= 400_000
    log.retire()
    spool.close()


async def test_what_is_dropped_is_not_given_to_readers_in_step_either() -> None:
    log = JobLog()
    log.append([encode(Output("stdout", text, 0, "run")) for text in "abc"])
    await log.read(0)
    log.drop_before(3)
    assert [kind for _, kind, _ in parse_stream((await log.read(0))[0])] == ["gap", "output"]


async def test_what_a_fed_log_has_lost_is_told_by_a_gap() -> None:
    log = EventLog(ledger=(ledger := Ledger()))
    log.append([("e", b"x" * 1000)] * 200)
    with log.cursor() as cursor:
        log.skip(250)
        assert (log.first_id, log.last_id, ledger.memory) == (251, 250, 0)
        log.append([("e", b"new")])
        data, last = await cursor.read()
    assert data == gap_frame(0, 250) + frame("e", b"new", 251)
    assert last == 251
    log.skip(100)  # long past
    assert (log.first_id, log.last_id) == (252, 251)


async def test_an_append_that_fails_keeps_nothing() -> None:
    log = JobLog()
    with pytest.raises(UnicodeEncodeError):
        log.append([encode(Output("stdout", "a", 0, "run")), ("\udc80", b"{}")])
    assert (log.last_id, log.memory_bytes) == (0, 0)


@pytest.mark.usefixtures("cold")
async def test_a_spool_that_is_closed_in_use_leaves_no_file(tmp_path: Path) -> None:
    spool = Spool(10_000_000, tmp_path)
    [extent] = await spool.write([b"x" * 1000])
    reading = asyncio.create_task(spool.read(extent))
    await at_the_disk()
    spool.close()
    spool.free(extent)
    assert await reading == b"x" * 1000
    await until_closed(tmp_path)
    assert spool.used_bytes == 0


async def test_a_piece_that_fits_no_file_costs_no_file(tmp_path: Path) -> None:
    spool = Spool(2 * PAGE_BYTES, tmp_path)
    [extent] = await spool.write([b"x" * PAGE_BYTES])
    assert await spool.write([b"x" * (PAGE_BYTES + 1)]) == []
    assert len(await spool.write([b"x" * PAGE_BYTES])) == 1, "there is room left for this"
    spool.free(extent)
    spool.close()


async def test_a_reader_that_leaves_early_gives_up_its_place_at_once() -> None:
    """The inner generator is closed with the outer one, not whenever it is collected."""
    log = JobLog()
    log.append([encode(Output("stdout", "x", 1, "run"))] * 3)
    events = log.events()
    assert (await anext(events)).id == 1
    assert log.taken(nobody=99) == 0
    await events.aclose()
    assert log.taken(nobody=99) == 99


async def test_the_index_of_a_log_on_disk_is_counted(tmp_path: Path) -> None:
    spool, ledger = Spool(10**9, tmp_path), Ledger()
    log = JobLog(spool=spool, ledger=ledger)
    event = encode(Output("stdout", "x" * 60_000, 0, "run"))
    # Start the threads before measuring: each takes some KiB.
    all_at_once = threading.Barrier(THREADS._max_workers)
    loop = asyncio.get_running_loop()
    await asyncio.gather(
        *(loop.run_in_executor(THREADS, all_at_once.wait) for _ in range(all_at_once.parties))
    )
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            log.append([event])
            await log.spill(10**9)
        await asyncio.sleep(0.1)  # a thread holds what it wrote last for a moment longer
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ledger.disk > 50_000_000
    # What Python itself and its threads hold beside: up to 35 KB when many tests ran before.
    assert after - before <= ledger.memory + 48_000 <= 2 * (after - before) + BLOCK_BYTES
    log.retire()
    spool.close()


async def test_what_found_no_room_on_disk_is_moved_later(tmp_path: Path) -> None:
    page = 4096
    spool = Spool(148 * page, tmp_path)
    other = await spool.write([b"x" * 100 * page])
    log = JobLog(spool=spool)
    for size in (*[120_000] * 3, *[66_000] * 3, 10):
        log.append([encode(Output("stdout", "x" * size, 0, "run"))])
    # At the same time, as when a job's own turn meets that of another that needs room: the first
    # has room for one of the large blocks. What is left would suffice for a small one, but the
    # oldest go first.
    first, second = await asyncio.gather(log.spill(350_000), log.spill(60_000))
    assert (120_000 < first < 240_000, second) == (True, 0)
    spool.free(other[0])
    await log.spill(10**6)
    assert log.spillable_bytes == 0, "it looks as if there were no room for it"
    log.drop(10**6)
    assert log.first_id == 7
    assert spool.used_bytes == 0
    spool.close()

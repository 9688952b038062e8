"""The text of a job's output: each event is read once, and the cache is bounded."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from streamer.eventlog.joblog import JobLog
from streamer.eventlog.spool import Spool
from streamer.jobs.transcript import AT_ONCE, Transcripts
from streamer.model.events import Output, encode


class CountingLog(JobLog):
    """A log that counts the bytes that were read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_read = 0

    async def read(self, after: int) -> tuple[bytes, int]:
        data, last = await super().read(after)
        self.bytes_read += len(data)
        return data, last


def lent(log: JobLog) -> Any:
    """Return a function like a job's `follow`, for a log."""
    return lambda _: nullcontext(log)


def write(log: JobLog, text: str, stream: Any = "stdout") -> None:
    log.append([encode(Output(stream, text, 0, "run"))])


async def test_each_case_has_its_part_of_the_texts() -> None:
    transcripts = Transcripts(30, 10**7)
    log = JobLog()

    def told(text: bytes, case: int | None, stream: Any = "stdout") -> None:
        data = base64.b64encode(text).decode()
        output = Output(stream, data, 0, "run", encoding="base64", case=case)
        log.append([encode(output)])

    told(b"compiled", None)
    told(b"one\xc3", 0)  # the rest of the letter never comes
    told(b"e", 0, "stderr")
    told(b"\xa9two", 2)
    told(b"2", 2)
    told(b"!" * 100, 3)
    told(b"?", 4)
    text = await transcripts.text("job", lent(log))
    assert text["stdout"] == f"compiledone\ufffdtwo2{'!' * 12}"
    assert text["cases"] == {
        0: {"stdout": "one", "stderr": "e"},
        2: {"stdout": "\ufffdtwo2"},
        3: {"stdout": "!" * 12},
    }
    assert await transcripts.text("job", lent(log)) == text


async def test_each_event_is_read_once_however_many_ask() -> None:
    transcripts = Transcripts(10**6, 10**7)
    log = CountingLog()
    written = ""
    for number in range(20):
        write(log, f"{number}é" * 1000)
        write(log, "e", "stderr")
        written += f"{number}é" * 1000
        texts = await asyncio.gather(*(transcripts.text("job", lent(log)) for _ in range(3)))
        for text in texts:
            assert (text["stdout"], text["stderr"]) == (written, "e" * (number + 1))
            assert not text["stdout_truncated"]
    whole, _ = await JobLog.read(log, 0)
    total = len(whole)
    log.bytes_read = 0
    await transcripts.text("job", lent(log))
    assert log.bytes_read == 0
    again = Transcripts(10**6, 10**7)
    await again.text("job", lent(log))
    assert log.bytes_read >= total > 0


async def test_a_text_is_cut_at_its_limit_and_says_so() -> None:
    transcripts = Transcripts(10, 10**6)
    log = JobLog()
    write(log, "é" * 4)
    assert (await transcripts.text("job", lent(log)))["stdout_truncated"] is False
    write(log, "é" * 4)
    for _ in range(2):
        text = await transcripts.text("job", lent(log))
        assert (text["stdout"], text["stdout_truncated"]) == ("é" * 5, True)
        assert text["stderr_truncated"] is False


async def test_what_is_kept_stays_within_its_room_by_its_real_size() -> None:
    room = 200_000
    transcripts = Transcripts(10**6, room)
    logs = [CountingLog() for _ in range(50)]
    for number, log in enumerate(logs):
        write(log, "€" * 10_000)  # two bytes a character in memory
        text = await transcripts.text(f"job{number}", lent(log))
        assert text["stdout"] == "€" * 10_000
        assert transcripts.kept_bytes <= room
    assert transcripts.kept_bytes > room - 30_000
    kept = [number for number in range(50) if f"job{number}" in transcripts._kept]
    assert kept == list(range(50 - len(kept), 50)), "the ones that were asked for last"
    assert len(kept) * sys.getsizeof("€" * 10_000) <= room


async def test_what_was_read_for_a_caller_who_has_left_counts_too() -> None:
    room = 500_000
    transcripts = Transcripts(10**6, room)
    for number in range(20):
        log = CountingLog()
        for _ in range(12):
            write(log, "x" * 65_536)
        asking = asyncio.create_task(transcripts.text(str(number), lent(log)))
        while log.bytes_read < 400_000:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()
    kept = sum(transcript.measured() for transcript in transcripts._kept.values())
    assert kept == transcripts.kept_bytes <= room


async def test_without_room_every_text_is_made_anew() -> None:
    transcripts = Transcripts(10**6, 0)
    log = CountingLog()
    write(log, "one")
    sizes = []
    for _ in range(2):
        log.bytes_read = 0
        assert (await transcripts.text("job", lent(log)))["stdout"] == "one"
        sizes.append(log.bytes_read)
        assert transcripts.kept_bytes == 0
    assert sizes[0] == sizes[1] > 0


async def test_what_could_not_be_read_is_read_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcripts = Transcripts(10**6, 10**7)
    spool = Spool(10**7, tmp_path)
    log = JobLog(spool=spool)
    for letter in "abcd":
        write(log, letter * 70_000)
    await log.spill(150_000)
    whole = "".join(letter * 70_000 for letter in "abcd")

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("streamer.eventlog.spool._read", fail)
        patch.setattr("streamer.eventlog.spool._read_now", lambda *_: None)
        asked = (transcripts.text("job", lent(log)) for _ in range(2))
        for text in await asyncio.gather(*asked):
            assert str(text["stdout"]).endswith("d" * 70_000)
            assert len(str(text["stdout"])) < len(whole)
            assert text["stdout_truncated"]
    for _ in range(2):
        text = await transcripts.text("job", lent(log))
        assert (text["stdout"], text["stdout_truncated"]) == (whole, False)
    kept = sum(transcript.measured() for transcript in transcripts._kept.values())
    assert kept == transcripts.kept_bytes
    # What the log itself has dropped is gone for good, and is not looked for again.
    log.drop_before(3)
    short = Transcripts(10**6, 10**7)
    for _ in range(2):
        text = await short.text("job", lent(log))
        assert (text["stdout"], text["stdout_truncated"]) == ("c" * 70_000 + "d" * 70_000, True)
    assert not next(iter(short._kept.values()))._unread
    log.retire()
    spool.close()


async def test_a_long_log_holds_up_nobody() -> None:
    transcripts = Transcripts(10**8, 0)
    log = JobLog()
    for _ in range(200):
        write(log, "x" * 20_000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert len(str((await transcripts.text("job", lent(log)))["stdout"])) == 4_000_000
    counting.cancel()
    assert turns > 20


async def test_texts_that_are_made_at_the_same_time_are_few() -> None:
    made = most = 0

    class SlowLog(JobLog):
        async def read(self, after: int) -> tuple[bytes, int]:
            nonlocal made, most
            made += 1
            most = max(most, made)
            await asyncio.sleep(0.001)
            made -= 1
            return await super().read(after)

    transcripts = Transcripts(10**6, 0)
    logs = [SlowLog() for _ in range(100)]
    for log in logs:
        write(log, "x")
    texts = await asyncio.gather(
        *(transcripts.text(str(n), lent(log)) for n, log in enumerate(logs))
    )
    assert [text["stdout"] for text in texts] == ["x"] * 100
    assert most <= AT_ONCE

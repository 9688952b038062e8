"""Collect a program's output from its log into the texts of a record."""

from __future__ import annotations

import asyncio
import base64
import codecs
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from streamer.eventlog.frames import split_frames
from streamer.eventlog.view import JobLogView
from streamer.model.events import Output, StreamName, decode

__all__ = ["AT_ONCE", "EventsGone", "TextOfStream", "Transcripts", "raw_output", "stream_of"]

Follow = Callable[[int], AbstractAsyncContextManager[JobLogView]]
"""Opens a job's log after an event: `streamer.jobs.job.Job.follow`."""

READ_BYTES: Final = 64 * 1024 * 1024
"""How much of a log is read for a document; the texts of a longer log are marked as truncated."""

AT_ONCE: Final = 8
"""How many logs are read at a time: no other limit counts unfinished texts."""

TRANSCRIPT_BYTES: Final = 2048
"""The memory of a transcript besides its texts."""

PLACE_BYTES: Final = 128
"""The memory of where one case begins."""


class EventsGone(Exception):
    """A part of the log is no longer kept, so the output is incomplete."""


class TextOfStream:
    """Turns output events of one stream into text; a character may span two base64 events."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, event: Output) -> str:
        """Return the text that is complete with this event."""
        return self._decoder.decode(raw_output(event)) if event.encoding else event.data


class Transcripts:
    """A cache of the texts of jobs: each event is read once, however often a text is requested.

    A text has at most `limit` bytes. The cache takes at most `room` bytes; the least recently
    requested job is dropped first.
    """

    def __init__(self, limit: int, room: int) -> None:
        self._limit = limit
        self._room = room
        self._kept: OrderedDict[str, _Transcript] = OrderedDict()
        self._places = asyncio.Semaphore(AT_ONCE)
        self.kept_bytes = 0

    async def text(self, job_id: str, follow: Follow, *, again: bool = False) -> dict[str, object]:
        """Return ``stdout`` and ``stderr`` so far, and whether parts of them are missing.

        ``cases`` has both of each case, by its number, as far as it has written anything. Of a job
        that is run `again`, as some may be, it is what the last attempt has written.
        """
        async with self._places:
            return await self._text(job_id, follow, again=again)

    async def _text(self, job_id: str, follow: Follow, *, again: bool) -> dict[str, object]:
        transcript = self._kept.pop(job_id, None)
        if transcript is None:
            transcript = _Transcript(self._limit)
            self.kept_bytes += transcript.size
        self._kept[job_id] = transcript
        try:
            async with transcript.lock:
                await transcript.read_on(follow, again=again)
                return transcript.texts()
        finally:
            self._count(transcript)  # also what was read for a caller who has left meanwhile

    def _count(self, transcript: _Transcript) -> None:
        if transcript.kept:
            self.kept_bytes -= transcript.size
            transcript.size = transcript.measured()
            self.kept_bytes += transcript.size
        while self.kept_bytes > self._room and self._kept:
            _, oldest = self._kept.popitem(last=False)
            oldest.kept = False
            self.kept_bytes -= oldest.size


class _Transcript:
    """The output of one job, as far as its log was read; it has no reference to the log."""

    def __init__(self, limit: int) -> None:
        self.lock = asyncio.Lock()
        self.kept = True
        self.size = TRANSCRIPT_BYTES
        self._limit = limit
        self._begin()

    def _begin(self) -> None:
        self._texts = self._empty()
        self._position = 0
        self._looked_through = 0
        self._unread = False
        """Whether events are missing that the log still has."""

    def _empty(self) -> dict[str, _Text]:
        return {"stdout": _Text(self._limit), "stderr": _Text(self._limit)}

    def measured(self) -> int:
        return TRANSCRIPT_BYTES + sum(text.measured() for text in self._texts.values())

    def texts(self) -> dict[str, object]:
        written = {name: text.finish() for name, text in self._texts.items()}
        cut = {f"{name}_truncated": text.cut for name, text in self._texts.items()}
        cases: dict[int, dict[str, str]] = {}
        for name, text in self._texts.items():
            for case, part in text.of_cases():
                cases.setdefault(case, {})[name] = part
        if self._unread:
            self._begin()  # the disk may work again when the next one asks
        return {**written, **cut, "cases": cases}

    async def read_on(self, follow: Follow, *, again: bool) -> None:
        async with follow(self._position) as log:
            with log.cursor(self._position) as cursor:
                while again or not all(text.full for text in self._texts.values()):
                    data, last = await cursor.read()
                    if not data:
                        return
                    if self._looked_through > READ_BYTES:
                        for text in self._texts.values():
                            text.full = text.cut = True
                        return
                    self._looked_through += len(data)
                    self._add(data, log.first_id)
                    cursor.advance(last)
                    self._position = last
                    await asyncio.sleep(0)  # a long log must not block others

    def _add(self, data: bytes, first_id: int) -> None:
        for number, kind, body, _ in split_frames(data):
            if kind == "gap":
                self._unread |= number >= first_id
                for text in self._texts.values():
                    text.cut = True
            elif kind == "status" and b'"attempt":' in body:
                self._texts = self._empty()
            elif kind == "output" and not self._texts[stream_of(body)].full:
                event = decode(kind, body)
                assert isinstance(event, Output)
                self._texts[event.stream].add(event)


class _Text:
    """The text of one stream, up to a limit."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._parts: list[str] = []
        self._chars = 0
        self._case: int | None = None
        self._begins: list[tuple[int | None, int]] = [(None, 0)]
        """Where each case begins, which come one after another."""
        self._decoder = TextOfStream()
        self.full = False
        """Whether the limit is reached."""
        self.cut = False
        """Whether a part is missing, at the end or at the beginning."""

    def add(self, event: Output) -> None:
        if event.case != self._case:
            self._case = event.case
            self._begins.append((event.case, self._chars))
            self._decoder = TextOfStream()  # a character does not go on in the next one
        text = self._decoder.decode(event)
        size = len(text.encode())
        if size > self._room:
            text = text.encode()[: self._room].decode(errors="ignore")
            self.full = self.cut = True
        self._room -= min(size, self._room)
        self._parts.append(text)
        self._chars += len(text)

    def finish(self) -> str:
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def of_cases(self) -> Iterator[tuple[int, str]]:
        """Yield each case that has written something, and what."""
        text = self.finish()
        ends = [*(begin for _, begin in self._begins[1:]), self._chars]
        for (case, begin), end in zip(self._begins, ends, strict=True):
            if case is not None:
                yield case, text[begin:end]

    def measured(self) -> int:
        places = sys.getsizeof(self._begins) + PLACE_BYTES * len(self._begins)
        return places + sum(sys.getsizeof(part) for part in self._parts)


_STDOUT: Final = b'{"stream":"stdout"'


def stream_of(body: bytes) -> StreamName:
    """Return the stream of an encoded output event, without decoding it."""
    # The encoder writes fields in their order, so the stream comes first.
    return "stdout" if body.startswith(_STDOUT) else "stderr"


def raw_output(event: Output) -> bytes:
    return base64.b64decode(event.data) if event.encoding else event.data.encode()

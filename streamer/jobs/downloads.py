"""Read a job's log for those who want its output as it is, or as a recording."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Final

from streamer.eventlog.frames import GAP, split_frames
from streamer.eventlog.log import Cursor
from streamer.jobs.transcript import EventsGone, TextOfStream, raw_output, stream_of
from streamer.model.events import Output, StreamName, decode

__all__ = ["BodySource", "CastSource", "OutputSource"]

PIECE_BYTES: Final = 64 * 1024


class OutputSource:
    """What a program wrote to one stream, as bytes; with `follow` live to its end.

    Of a job with ``outputEncoding: base64`` they are its very bytes, of another one its text as
    UTF-8. Raises `EventsGone` where something is missing.
    """

    def __init__(self, cursor: Cursor, stream: StreamName, *, follow: bool = True) -> None:
        self._cursor = cursor
        self._stream = stream
        self._follow = follow
        self._next = cursor.position
        self.cursors: Sequence[Cursor] = (cursor,)

    async def read(self) -> bytes:
        """Return what is next; events that say nothing of it are passed over."""
        while True:
            data, self._next = await self._cursor.read()
            found = b"".join(self._parts(data))
            if found or not data:
                return found
            del data  # of no use to anybody, and in nobody's account
            self.sent()
            await asyncio.sleep(0)  # others shall run; a log may be long

    def sent(self) -> None:
        """Move the cursor on."""
        if self._next != self._cursor.position:
            self._cursor.advance(self._next)

    @property
    def ended(self) -> bool:
        """Whether all of it, or all that there is by now, was sent."""
        return self._cursor.at_end or (not self._follow and self._cursor.lag == 0)

    def _parts(self, data: bytes) -> Iterator[bytes]:
        for _, kind, body, _ in split_frames(data):
            if kind == GAP:
                raise EventsGone
            if kind == "output" and stream_of(body) == self._stream:
                event = decode(kind, body)
                assert isinstance(event, Output)
                yield raw_output(event)


class CastSource(OutputSource):
    """A recording in asciicast v2 (docs.asciinema.org), live to the end of the job.

    Both streams are output of the one terminal; a program without a terminal ends lines with LF
    only, which a player would take for a staircase, so a CR is put before each.
    """

    def __init__(self, cursor: Cursor, *, created_at: float, title: str) -> None:
        super().__init__(cursor, "stdout")
        header = {
            "version": 2,
            "width": 80,
            "height": 24,
            "timestamp": int(created_at),
            "title": title,
            "env": {"TERM": "xterm-256color"},
        }
        self._header = json.dumps(header).encode() + b"\n"
        self._texts = {"stdout": TextOfStream(), "stderr": TextOfStream()}

    async def read(self) -> bytes:
        """Return the next lines of the recording."""
        if self._header:
            header, self._header = self._header, b""
            return header
        return await super().read()

    @property
    def ended(self) -> bool:
        """Whether all of it was sent."""
        return not self._header and super().ended

    def _parts(self, data: bytes) -> Iterator[bytes]:
        for _, kind, body, _ in split_frames(data):
            if kind == GAP:
                raise EventsGone
            if kind == "output":
                event = decode(kind, body)
                assert isinstance(event, Output)
                text = self._texts[event.stream].decode(event).replace("\n", "\r\n")
                yield json.dumps([event.t / 1000, "o", text]).encode() + b"\n"


class BodySource:
    """A body that is there as a whole, a piece at a time."""

    cursors: Sequence[Cursor] = ()

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)
        self.held_bytes = len(body)
        """All of it, until all of it was sent."""

    async def read(self) -> bytes:
        """Return the next piece."""
        return bytes(self._rest[:PIECE_BYTES])

    def sent(self) -> None:
        """Go on to the next piece."""
        self._rest = self._rest[PIECE_BYTES:]

    @property
    def ended(self) -> bool:
        """Whether all of it was sent."""
        return not self._rest

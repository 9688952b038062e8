"""Sources that turn a job's log into its raw output, or into a recording."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Final

from streamer.eventlog.frames import GAP, split_frames
from streamer.eventlog.log import Cursor
from streamer.jobs.transcript import EventsGone, TextOfStream, raw_output, stream_of
from streamer.model.events import Output, StreamName, decode
from streamer.model.job import TerminalSize

__all__ = ["BodySource", "CastSource", "OutputSource"]

PIECE_BYTES: Final = 64 * 1024
USUAL_SIZE: Final = TerminalSize(cols=80, rows=24)


class OutputSource:
    """A program's output to one stream, as bytes; with `follow` live until its end.

    If the job has ``outputEncoding: base64`` these are its exact bytes, otherwise its text as
    UTF-8. Raises `EventsGone` if a part is missing.
    """

    def __init__(self, cursor: Cursor, stream: StreamName, *, follow: bool = True) -> None:
        self._cursor = cursor
        self._stream = stream
        self._follow = follow
        self._next = cursor.position
        self.cursors: Sequence[Cursor] = (cursor,)

    async def read(self) -> bytes:
        """Return the next bytes; other events are skipped."""
        while True:
            data, self._next = await self._cursor.read()
            found = b"".join(self._parts(data))
            if found or not data:
                return found
            del data  # frees it before the wait, as nothing counts it
            self.sent()
            await asyncio.sleep(0)  # the log may be long; let others run

    def sent(self) -> None:
        if self._next != self._cursor.position:
            self._cursor.advance(self._next)

    @property
    def ended(self) -> bool:
        """Whether all of it, or without `follow` all that exists now, was sent."""
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

    Both streams become output of one terminal, which has the size that the job's has at its start.
    A program without a terminal ends lines with LF only, which a player would show as a staircase,
    so a CR is put before each.
    """

    def __init__(
        self, cursor: Cursor, *, created_at: float, title: str, terminal: TerminalSize | None
    ) -> None:
        super().__init__(cursor, "stdout")
        size = terminal or USUAL_SIZE
        header = {
            "version": 2,
            "width": size.cols,
            "height": size.rows,
            "timestamp": int(created_at),
            "title": title,
            "env": {"TERM": "xterm-256color"},
        }
        self._header = json.dumps(header).encode() + b"\n"
        self._texts = {"stdout": TextOfStream(), "stderr": TextOfStream()}
        self._on_terminal = terminal is not None

    async def read(self) -> bytes:
        if self._header:
            header, self._header = self._header, b""
            return header
        return await super().read()

    @property
    def ended(self) -> bool:
        return not self._header and super().ended

    def _parts(self, data: bytes) -> Iterator[bytes]:
        for _, kind, body, _ in split_frames(data):
            if kind == GAP:
                raise EventsGone
            if kind == "output":
                event = decode(kind, body)
                assert isinstance(event, Output)
                text = self._texts[event.stream].decode(event)
                if not self._on_terminal or event.phase == "compile":
                    text = text.replace("\n", "\r\n")
                yield json.dumps([event.t / 1000, "o", text]).encode() + b"\n"


class BodySource:
    """A body that exists as a whole, sent in pieces."""

    cursors: Sequence[Cursor] = ()

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)
        self.held_bytes = len(body)
        """The whole body, until all of it was sent."""

    async def read(self) -> bytes:
        return bytes(self._rest[:PIECE_BYTES])

    def sent(self) -> None:
        self._rest = self._rest[PIECE_BYTES:]

    @property
    def ended(self) -> bool:
        return not self._rest

"""The sources of a session: one log, a filtered log, or several logs in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamer.eventlog.frames import GAP, joined_lines, split_frames
from streamer.eventlog.log import Cursor, EventLog
from streamer.eventlog.view import LogView
from streamer.sse.response import id_number

__all__ = ["FilteredSource", "LogSource", "MergedSource", "Predicate", "Tag", "merged_positions"]

Predicate = Callable[[int, str, bytes], bool]
"""Decides by an event's number, name and data whether a reader gets it."""

Tag = Callable[[str, bytes], bytes]
"""Adds the name of the log to the data of an event, for a stream of several logs."""


class LogSource:
    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._next = cursor.position
        self.cursors: Sequence[Cursor] = (cursor,)

    async def read(self) -> bytes:
        data, self._next = await self._cursor.read()
        return data

    def read_now(self) -> bytes | None:
        """Return everything that `read` would, if it would not wait; None otherwise."""
        if type(self).read is not LogSource.read:
            return None  # a subclass that filters or changes what is read
        return self._read_now()

    def _read_now(self) -> bytes | None:
        log = self._cursor.log
        found = log.read_now(self._cursor.position) if isinstance(log, EventLog) else None
        if found is None:
            return None
        data, self._next = found
        return data

    def sent(self) -> None:
        if self._next != self._cursor.position:
            self._cursor.advance(self._next)

    @property
    def ended(self) -> bool:
        return self._cursor.at_end


class FilteredSource(LogSource):
    """The events of one log that a predicate accepts; they keep their ids.

    A ``gap`` always passes: the lost events may have been accepted.
    """

    def __init__(self, cursor: Cursor, wanted: Predicate) -> None:
        super().__init__(cursor)
        self._wanted = wanted

    async def read(self) -> bytes:
        """Return the next accepted frames; the others are skipped."""
        while True:
            data = await super().read()
            kept = b"".join(
                made
                for number, kind, text, made in split_frames(data)
                if kind == GAP or self._wanted(number, kind, text)
            )
            if kept or not data:
                return kept
            del data  # frees it before the wait, as nothing counts it
            self.sent()
            await asyncio.sleep(0)  # a long log may have nothing that is accepted; let others run


class MergedSource:
    """Several logs in one stream.

    An event's id has the position in every log, in their order, separated by dots (``5.0.12``), so
    one id resumes all of them. `tag` adds the log's name to the data.
    """

    def __init__(self, sources: Mapping[str, LogSource], tag: Tag) -> None:
        self._names = tuple(sources)
        self._sources = tuple(sources.values())
        self._tag = tag
        self._turn = 0
        self._told: LogSource | None = None
        self.cursors: Sequence[Cursor] = tuple(
            cursor for source in self._sources for cursor in source.cursors
        )

    async def read(self) -> bytes:
        """Return the next frames of one log; the logs take turns."""
        self._told = None
        for _ in self._sources:
            index = self._turn
            self._turn = (self._turn + 1) % len(self._sources)
            data = await self._sources[index].read()
            if data:
                self._told = self._sources[index]
                return b"".join(self._retold(index, data))
        return b""

    def sent(self) -> None:
        if self._told is not None:
            self._told.sent()
            self._told = None

    @property
    def ended(self) -> bool:
        return all(source.ended for source in self._sources)

    def _retold(self, index: int, data: bytes) -> Iterator[bytes]:
        positions = [str(cursor.position) for cursor in self.cursors]
        for number, kind, text, _ in split_frames(data):
            positions[index] = str(number)
            # The lines are encoded anew, so that data cannot turn into a field.
            value = joined_lines(self._tag(self._names[index], text))
            position = ".".join(positions).encode()
            yield b"event: %b\ndata: %b\nid: %b\n\n" % (kind.encode(), value, position)


def merged_positions(text: str, logs: Sequence[LogView]) -> list[int]:
    """Return the positions in an id of a `MergedSource`; an unknown id gives all 0."""
    parts = text.split(".")
    if len(parts) != len(logs):
        return [0] * len(logs)
    return [id_number(part, log.last_id) for part, log in zip(parts, logs, strict=True)]

"""Read logs for a session: one log, a part of one, or several in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamer.eventlog.frames import GAP, joined_lines, split_frames
from streamer.eventlog.log import Cursor, EventLog
from streamer.sse.response import id_number

__all__ = ["FilteredSource", "LogSource", "MergedSource", "Predicate", "Tag", "merged_positions"]

Predicate = Callable[[int, str, bytes], bool]
"""Tells by its number, name and data whether an event is for a reader."""

Tag = Callable[[str, bytes], bytes]
"""Puts the name of its log into the data of an event, for a stream of several."""


class LogSource:
    """Everything of one log from a cursor on."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._next = cursor.position
        self.cursors: Sequence[Cursor] = (cursor,)

    async def read(self) -> bytes:
        """Return the next frames."""
        data, self._next = await self._cursor.read()
        return data

    def sent(self) -> None:
        """Move the cursor on."""
        if self._next != self._cursor.position:
            self._cursor.advance(self._next)

    @property
    def ended(self) -> bool:
        """Whether the log has ended and all of it was sent."""
        return self._cursor.at_end


class FilteredSource(LogSource):
    """Those events of one log that a predicate lets through; ids keep their numbers.

    A ``gap`` is always let through: what is gone may have been wanted.
    """

    def __init__(self, cursor: Cursor, wanted: Predicate) -> None:
        super().__init__(cursor)
        self._wanted = wanted

    async def read(self) -> bytes:
        """Return the next frames that are wanted; what is not wanted is passed over."""
        while True:
            data = await super().read()
            kept = b"".join(
                made
                for number, kind, text, made in split_frames(data)
                if kind == GAP or self._wanted(number, kind, text)
            )
            if kept or not data:
                return kept
            del data  # of no use to anybody, and in nobody's account
            self.sent()
            await asyncio.sleep(0)  # others shall run; a log may be long, and nothing of it wanted


class MergedSource:
    """Several logs in one stream.

    The id of an event is the position in every log, in their order and with dots between
    (``5.0.12``), so that one id resumes all of them. `tag` says in the data which log an event is
    from.
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
        """Return the next frames of the log whose turn it is among those that have any."""
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
        """Move the cursor on of what was read."""
        if self._told is not None:
            self._told.sent()
            self._told = None

    @property
    def ended(self) -> bool:
        """Whether all of them have ended and were sent."""
        return all(source.ended for source in self._sources)

    def _retold(self, index: int, data: bytes) -> Iterator[bytes]:
        positions = [str(cursor.position) for cursor in self.cursors]
        for number, kind, text, _ in split_frames(data):
            positions[index] = str(number)
            # Its lines are made again: what is data in one of several must not become a field.
            value = joined_lines(self._tag(self._names[index], text))
            position = ".".join(positions).encode()
            yield b"event: %b\ndata: %b\nid: %b\n\n" % (kind.encode(), value, position)


def merged_positions(text: str, logs: Sequence[EventLog]) -> list[int]:
    """Return the positions that an id of a `MergedSource` names; all 0 if it is none."""
    parts = text.split(".")
    if len(parts) != len(logs):
        return [0] * len(logs)
    return [id_number(part, log.last_id) for part, log in zip(parts, logs, strict=True)]

"""Read logs for a session: one log, a part of one, or several in one stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from streamer.sse.frames import split_frames
from streamer.sse.log import Cursor, EventLog
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
    """Those events of one log that a predicate lets through; ids keep their numbers."""

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
                if kind == "gap" or self._wanted(number, kind, text)
            )
            if kept or not data:
                return kept
            self.sent()


class MergedSource:
    """Several logs in one stream.

    The id of an event is the position in every log, in their order and with dots between
    (``5.0.12``), so that one id resumes all of them. `tag` says in the data which log an event is
    from.
    """

    def __init__(self, cursors: Mapping[str, Cursor], tag: Tag) -> None:
        self._names = tuple(cursors)
        self._tag = tag
        self._next = [cursor.position for cursor in cursors.values()]
        self._turn = 0
        self.cursors: Sequence[Cursor] = tuple(cursors.values())

    async def read(self) -> bytes:
        """Return the next frames of the log whose turn it is among those that have any."""
        for _ in self.cursors:
            index = self._turn
            self._turn = (self._turn + 1) % len(self.cursors)
            data, _ = await self.cursors[index].read()
            if data:
                return b"".join(self._retold(index, data))
        return b""

    def sent(self) -> None:
        """Move the cursors on."""
        for cursor, position in zip(self.cursors, self._next, strict=True):
            if cursor.position != position:
                cursor.advance(position)

    @property
    def ended(self) -> bool:
        """Whether all of them have ended and were sent."""
        return all(cursor.at_end for cursor in self.cursors)

    def _retold(self, index: int, data: bytes) -> Iterator[bytes]:
        for number, kind, text, _ in split_frames(data):
            self._next[index] = number
            position = ".".join(map(str, self._next))
            tagged = self._tag(self._names[index], text)
            yield b"event: %b\ndata: %b\nid: %b\n\n" % (
                kind.encode(),
                tagged,
                position.encode(),
            )


def merged_positions(text: str, logs: Sequence[EventLog]) -> list[int]:
    """Return the positions that an id of a `MergedSource` names; all 0 if it is none."""
    parts = text.split(".")
    if len(parts) != len(logs):
        return [0] * len(logs)
    return [id_number(part, log.last_id) for part, log in zip(parts, logs, strict=True)]

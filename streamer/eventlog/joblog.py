"""The log of one job: an event log that ends with its terminal event.

The data of an event contains no raw CR or LF (`streamer.model.events.encode`), so output can never
forge a frame.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from streamer.eventlog.frames import split_frames
from streamer.eventlog.log import EventLog
from streamer.model.events import TERMINAL_KINDS, Event, JobEvent, decode

__all__ = ["JobLog"]


class JobLog(EventLog):
    """The events of one job, numbered densely from 1."""

    def append(self, events: Sequence[tuple[str, bytes]], *, end: bool = False) -> None:
        """Number the encoded events, keep them and wake the readers.

        The last one may be terminal, which ends the log. Raises RuntimeError if the log has ended.
        """
        kinds = [kind for kind, _ in events]
        for place, kind in enumerate(kinds, 1):
            if kind in TERMINAL_KINDS:
                events, end = events[:place], True
                break
        super().append(events, end=end)

    @property
    def end(self) -> JobEvent:
        """The terminal event of a log that is `done`."""
        ((_, kind, data, _),) = split_frames(self.newest)
        return decode(kind, data)

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after`, then live ones, up to the terminal one."""
        with self.cursor(after) as cursor:
            while not cursor.at_end:
                # Closed with this generator; otherwise its cursor would stay until it is
                # collected.
                async with aclosing(self.entries(cursor.position)) as entries:
                    async for event in entries:
                        yield event
                        cursor.advance(event.id)
                await self.wait(cursor.position)

    async def entries(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after` that exist now."""
        with self.cursor(after) as cursor:
            while True:
                data, last = await cursor.read()
                for number, kind, text, _ in split_frames(data):
                    yield Event(number, kind, decode(kind, text))
                if not data:
                    return
                cursor.advance(last)

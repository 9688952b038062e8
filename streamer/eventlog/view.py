"""The reading side of a log, as an engine returns it.

Behind it is a log of this process, or a mirror of one elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from streamer.eventlog.cursor import Cursor

if TYPE_CHECKING:
    from streamer.eventlog.joblog import Event
    from streamer.model.events import JobEvent

__all__ = ["JobLogView", "LogView"]


class LogView(Protocol):
    """A log of numbered events; see `streamer.eventlog.log.EventLog`."""

    @property
    def first_id(self) -> int:
        """The number of the oldest event that is still kept."""

    @property
    def last_id(self) -> int:
        """The number of the newest event."""

    @property
    def done(self) -> bool:
        """Whether nothing follows the newest event."""

    async def read(self, after: int) -> tuple[bytes, int]:
        """Return frames that follow event `after`, ready to send, and the last one's number."""

    async def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait for an event that follows number `after`, or for the end of the log."""

    def watch(self, waiter: asyncio.Future[bool]) -> None:
        """Have a future set at the next append."""

    def unwatch(self, waiter: asyncio.Future[bool]) -> None:
        """Leave a future alone from now on."""

    def cursor(self, after: int = 0) -> AbstractContextManager[Cursor]:
        """Open a reader's place."""


class JobLogView(LogView, Protocol):
    """The log of one job; see `streamer.eventlog.joblog.JobLog`."""

    @property
    def end(self) -> JobEvent:
        """The terminal event of a log that is `done`."""

    def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield every event after number `after`, then live ones, to the terminal one."""

    def entries(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the events after number `after` that there are by now."""

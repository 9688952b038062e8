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
    from streamer.model.events import Event, JobEvent

__all__ = ["JobLogView", "LogView"]


class LogView(Protocol):
    """A log of numbered events; see `streamer.eventlog.log.EventLog`."""

    @property
    def first_id(self) -> int: ...

    @property
    def last_id(self) -> int: ...

    @property
    def done(self) -> bool: ...

    async def read(self, after: int) -> tuple[bytes, int]: ...

    async def wait(self, after: int, timeout_s: float | None = None) -> bool: ...

    def watch(self, waiter: asyncio.Future[bool]) -> None: ...

    def unwatch(self, waiter: asyncio.Future[bool]) -> None: ...

    def cursor(self, after: int = 0) -> AbstractContextManager[Cursor]:
        """Open a reader's position, a `Cursor` of this view."""

    def reader_moved(self) -> None:
        """Take note that a cursor has advanced; nothing to do if no program is held for readers."""


class JobLogView(LogView, Protocol):
    """The log of one job; see `streamer.eventlog.joblog.JobLog`."""

    @property
    def end(self) -> JobEvent: ...

    def events(self, after: int = 0) -> AsyncGenerator[Event, None]: ...

    def entries(self, after: int = 0) -> AsyncGenerator[Event, None]: ...

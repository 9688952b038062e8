"""A reader's position in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.eventlog.view import LogView

__all__ = ["Cursor"]


class Cursor:
    """One reader's position in a log: it has every event up to `position`."""

    __slots__ = ("_log", "position")

    def __init__(self, log: LogView, position: int) -> None:
        self._log = log
        self.position = position

    @property
    def log(self) -> LogView:
        return self._log

    @property
    def lag(self) -> int:
        """How many events it does not have yet."""
        return max(self._log.last_id - self.position, 0)

    @property
    def at_end(self) -> bool:
        """Whether the log has ended and it has everything."""
        return self._log.done and self.position >= self._log.last_id

    async def read(self) -> tuple[bytes, int]:
        """Return the next encoded frames, and the number to `advance` to once they are sent."""
        return await self._log.read(self.position)

    def advance(self, position: int) -> None:
        """Record that everything up to `position` was sent."""
        self.position = position
        self._log.reader_moved()

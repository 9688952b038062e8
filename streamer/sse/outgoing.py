"""Bound what clients have yet to take, of all of them together.

Each that is slow holds a piece that is being written and a buffer of the connection, 200 KiB or
more; thousands of those would be the end of the service. So the sum is counted, and where it is
over its bound those who have taken nothing for the longest time are cut. They may resume.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

__all__ = ["Outgoing"]

log: Final = logging.getLogger(__name__)

SAY_AGAIN_S: Final = 60.0


class _Answer(Protocol):
    def abort(self) -> None: ...


class _Session(Protocol):
    counted: int
    writing_since: float

    @property
    def held_bytes(self) -> int: ...

    @property
    def response(self) -> _Answer: ...


class Outgoing:
    """What sessions hold for their clients, `most` bytes; None is no bound."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._sessions: dict[_Session, None] = {}
        self._said_at = -SAY_AGAIN_S
        self.bytes = 0
        """The sum as it was when each session last wrote, so rather too much."""
        self.cut = 0
        """How many were cut so far."""

    def __len__(self) -> int:
        """Return how many sessions hold anything."""
        return len(self._sessions)

    def count(self, session: _Session) -> None:
        """Count what a session holds now, and cut others or it if that is too much."""
        if self._most is None:
            return
        self._count(session)
        if self.bytes > self._most:
            self._relieve(self._most)

    def forget(self, session: _Session) -> None:
        """Count a session no more."""
        self.bytes -= session.counted
        session.counted = 0
        self._sessions.pop(session, None)

    def _count(self, session: _Session) -> None:
        held = session.held_bytes
        self.bytes += held - session.counted
        session.counted = held
        if held:
            self._sessions[session] = None
        else:
            self._sessions.pop(session, None)

    def _relieve(self, most: int) -> None:
        for session in tuple(self._sessions):
            self._count(session)  # some have been taken from meanwhile
        if self.bytes <= most:
            return
        # Some more than needed, or each write under load would walk over all of them.
        wanted = most - most // 8
        before = self.cut
        for session in sorted(self._sessions, key=lambda s: (s.writing_since, -s.counted)):
            if self.bytes <= wanted or len(self._sessions) == 1:  # one alone may be that large
                break
            session.response.abort()
            self.forget(session)
            self.cut += 1
        now = time.monotonic()
        if self.cut > before and now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            log.warning(
                "clients had more than %d bytes to take: %d were cut", most, self.cut - before
            )

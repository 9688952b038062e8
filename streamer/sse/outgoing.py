"""Bound the bytes that are waiting to be sent, over all clients together.

Each slow client holds a chunk being written and a socket buffer, 200 KiB or more; thousands of them
would exhaust the memory. So the sum is counted, and when it exceeds its bound the clients that have
stalled for the longest time are cut off. They may resume.
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
    """The unsent bytes of all sessions, at most `most`; None means no bound."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._sessions: dict[_Session, None] = {}
        self._said_at = -SAY_AGAIN_S
        self.bytes = 0
        """The sum, as of each session's last write: never too low."""
        self.cut = 0
        """How many sessions were cut off so far."""

    def __len__(self) -> int:
        """Return how many sessions hold unsent bytes."""
        return len(self._sessions)

    def count(self, session: _Session) -> None:
        """Count a session's unsent bytes; if the sum is too large, cut off sessions, maybe this."""
        if self._most is None:
            return
        self._count(session)
        if self.bytes > self._most:
            self._relieve(self._most)

    def forget(self, session: _Session) -> None:
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
            self._count(session)  # clients have read some meanwhile
        if self.bytes <= most:
            return
        # Free more than needed, or under load every write would walk over all sessions.
        wanted = most - most // 8
        before = self.cut
        for session in sorted(self._sessions, key=lambda s: (s.writing_since, -s.counted)):
            if (
                self.bytes <= wanted or len(self._sessions) == 1
            ):  # a single session may exceed the bound
                break
            session.response.abort()
            self.forget(session)
            self.cut += 1
        now = time.monotonic()
        if self.cut > before and now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            log.warning(
                "more than %d bytes waited to be sent: %d stalled clients were cut off",
                most,
                self.cut - before,
            )

"""Keep the session map: which readers of which job are connected, and where each stands."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from aiohttp_sse import EventSourceResponse

from streamer.errors import Busy

__all__ = ["Session", "SessionMap", "SessionView"]

_numbers: Final = count(1)


@dataclass(eq=False, slots=True)
class Session:
    """One open response, following one job. `position` is the last event it was sent."""

    job_id: str
    response: EventSourceResponse
    peer: str
    position: int
    number: int = field(default_factory=lambda: next(_numbers))
    since: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A snapshot of a session: `since` in seconds since the epoch, `peer` its address."""

    number: int
    job_id: str
    peer: str
    since: float
    position: int


class SessionMap:
    """The open sessions of each job."""

    def __init__(self, max_per_job: int) -> None:
        self._max_per_job = max_per_job
        self._sessions: dict[str, set[Session]] = {}

    def __len__(self) -> int:
        """Return how many sessions are open, over all jobs."""
        return sum(map(len, self._sessions.values()))

    @contextmanager
    def track(self, session: Session) -> Iterator[Session]:
        """Keep a session in the map for as long as its response is open.

        Raises `Busy` if the job has as many readers as it may.
        """
        if len(self._sessions.get(session.job_id, ())) >= self._max_per_job:
            raise Busy(
                f"the job has {self._max_per_job} readers already, as many as it may",
                code="rate_limited",
                retry_after_s=5.0,
            )
        self._sessions.setdefault(session.job_id, set()).add(session)
        try:
            yield session
        finally:
            remaining = self._sessions[session.job_id]
            remaining.discard(session)
            if not remaining:
                del self._sessions[session.job_id]

    def snapshot(self) -> Mapping[str, Sequence[SessionView]]:
        """Return what is open now, by job, oldest first."""
        return {
            job_id: [
                SessionView(s.number, job_id, s.peer, s.since, s.position)
                for s in sorted(sessions, key=lambda session: session.number)
            ]
            for job_id, sessions in self._sessions.items()
        }

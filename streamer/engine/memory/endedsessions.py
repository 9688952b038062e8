"""What is known of sessions that have ended: for a time, and of so many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from streamer.model.session import EndReason

__all__ = ["EndedSession", "EndedSessions"]


@dataclass(frozen=True, slots=True)
class EndedSession:
    """What is remembered; little, since there may be many."""

    tenant: str
    reason: EndReason
    created_at: float
    """By the clock on the wall."""
    at: float


class EndedSessions:
    """At most `most` of them, for `keep_s` seconds.

    Where there are more the oldest of the tenant that has the most goes, so that nobody's are
    pushed out by what others end.
    """

    def __init__(self, most: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._keep_s = keep_s
        self._clock = clock
        self._all: OrderedDict[str, EndedSession] = OrderedDict()
        self._of: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def get(self, session_id: str) -> EndedSession | None:
        return self._all.get(session_id)

    def add(self, session_id: str, tenant: str, reason: EndReason, created_at: float) -> None:
        self._all[session_id] = EndedSession(tenant, reason, created_at, self._clock())
        self._of.setdefault(tenant, OrderedDict())[session_id] = None
        self.forget()

    def forget(self) -> None:
        """Forget those that are too many, or ended too long ago."""
        while len(self._all) > self._most:
            longest = max(self._of.values(), key=len)
            self._remove(next(iter(longest)))
        over = self._clock() - self._keep_s
        while self._all and next(iter(self._all.values())).at <= over:
            self._remove(next(iter(self._all)))

    def _remove(self, session_id: str) -> None:
        tenant = self._all.pop(session_id).tenant
        del self._of[tenant][session_id]
        if not self._of[tenant]:
            del self._of[tenant]

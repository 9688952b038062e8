"""The sessions of one process.

Only `ask` and `news` wait, so every other step is atomic on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from streamer.engine.limits import SessionLimits
from streamer.engine.memory.endedsessions import EndedSessions
from streamer.engine.sessions import AskedSession, SessionNews, SessionView, session_gone
from streamer.errors import Draining, NotFound, RateLimited, unknown_project
from streamer.model.capabilities import Accepts
from streamer.model.job import Limits
from streamer.model.session import (
    Done,
    EndReason,
    Open,
    ResolvedSession,
    SessionAnswer,
    SessionRequest,
    Stored,
)

__all__ = ["MemorySessions"]

NEWS_WAIT_S: Final = 1.0

MOST_ASKED: Final = 16
"""The requests to one session that wait for an answer, or are answered though nobody waits."""


@dataclass(slots=True, eq=False)
class _Record:
    session: ResolvedSession
    created_at: float
    """By the clock on the wall."""
    begun: float
    used: float
    """When it was used last."""
    worker: str | None = None
    lease_until: float = 0.0
    is_open: bool = False
    asked: dict[int, tuple[SessionRequest, asyncio.Future[SessionAnswer]]] = field(
        default_factory=dict
    )
    number: int = 0
    """The number of the last request."""
    told: int = 0
    """The highest number of a request that its worker was told."""
    abandoned: set[int] = field(default_factory=set)
    """The requests that its worker was told, and nobody waits for."""
    waiting: dict[str, int] = field(default_factory=dict)
    """Its jobs that wait: their ids and priorities."""
    running: str | None = None

    @property
    def in_use(self) -> bool:
        return bool(self.asked or self.waiting or self.running)


class MemorySessions:
    """See `streamer.engine.sessions.Sessions`."""

    def __init__(
        self,
        limits: SessionLimits,
        *,
        lease_s: float,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._lease_s = lease_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._records: dict[str, _Record] = {}
        self._of: Counter[str] = Counter()
        self._ended = EndedSessions(limits.ended, limits.ended_s, clock)
        self._bell = asyncio.Event()
        """Set when a worker may have news."""
        self._listening: Counter[str] = Counter()
        """The workers that wait for news."""
        self._draining = False
        self.hold: Callable[[str], bool] = lambda _: False
        """Keep a blob; False if there is none."""
        self.release: Callable[[str], None] = lambda _: None
        """Keep it no longer."""
        self.drop: Callable[[str], None] = lambda _: None
        """Delete a blob, which may be gone already."""
        self.end_job: Callable[[str], None] = lambda _: None
        """Called with each job of a session that ends: cancel it."""
        self.on_place: Callable[[], None] = lambda: None
        """Called when a waiting job of a session may run now."""
        self.waiting_jobs = 0
        """The jobs of sessions that wait."""

    def __len__(self) -> int:
        return len(self._records)

    # -- the API side ---------------------------------------------------------------------

    async def open(self, session: ResolvedSession) -> None:
        self.expire()
        tenant = session.tenant
        known = self._records.get(session.session_id) or self._ended.get(session.session_id)
        if known is not None:
            return
        if self._draining:
            raise Draining("the service is shutting down and opens no sessions")
        self._check_room(tenant)
        if session.project is not None and not self.hold(session.project.blob_id):
            raise unknown_project(session.project.blob_id)
        now = self._clock()
        self._records[session.session_id] = _Record(session, self._wall_clock(), now, now)
        self._of[tenant] += 1
        self._bell.set()

    def _check_room(self, tenant: str) -> None:
        limits = self._limits
        most, _ = limits.of(tenant)
        if most is not None and self._of[tenant] >= most:
            raise limits.share_taken(self._of[tenant], tenant)
        if len(self._records) >= limits.total:
            raise limits.full(len(self._records))

    async def find(self, session_id: str) -> SessionView | None:
        self.expire()
        record = self._records.get(session_id)
        if record is not None:
            return self._view(record)
        ended = self._ended.get(session_id)
        if ended is None:
            return None
        # Of what it was nothing is kept.
        nothing = ResolvedSession(session_id, ended.tenant, "", Limits(), 0.0, 0.0)
        return SessionView(nothing, "idle", ended.created_at, ended.created_at, ended.reason)

    async def of(self, tenant: str) -> Sequence[SessionView]:
        self.expire()
        views = [
            self._view(record)
            for record in self._records.values()
            if record.session.tenant == tenant
        ]
        return tuple(reversed(views))

    async def ask(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        record = self._living(session_id)
        if len(record.asked) + len(record.abandoned) >= MOST_ASKED:
            raise RateLimited("too many requests to the session wait: try again later")
        record.number += 1
        number = record.number
        answered: asyncio.Future[SessionAnswer] = asyncio.get_running_loop().create_future()
        record.asked[number] = (request, answered)
        record.used = self._clock()
        self._bell.set()
        try:
            return await answered
        except asyncio.CancelledError:
            if not answered.cancelled() and answered.exception() is None:
                self._drop_answer(answered.result())  # it has come just before
            elif number <= record.told:
                record.abandoned.add(number)
            raise
        finally:
            record.asked.pop(number, None)
            record.used = self._clock()

    async def end(self, session_id: str) -> bool:
        self.expire()
        record = self._records.get(session_id)
        if record is None:
            return False
        self._end(record, "deleted")
        return True

    # -- the worker's side ----------------------------------------------------------------

    async def news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        self._bell.clear()
        news = self._news(worker, held, free, accepts)
        if news == SessionNews():
            self._listening[worker] += 1
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(NEWS_WAIT_S):
                        await self._bell.wait()
            finally:
                self._listening -= Counter([worker])
            news = self._news(worker, held, free, accepts)
        return news

    def _news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        now = self._clock()
        for record in self._records.values():
            if record.worker == worker:
                record.lease_until = now + self._lease_s
        self.expire()
        records = self._records
        closed = [one for one in held if one not in records or records[one].worker != worker]
        opens: list[ResolvedSession] = []
        asked: list[AskedSession] = []
        for session_id, record in records.items():
            if record.worker is None and len(opens) < free:
                if accepts is not None and not accepts.opens(record.session):
                    continue
                record.worker = worker
                record.lease_until = now + self._lease_s
            if record.worker != worker:
                continue
            if session_id not in held:
                opens.append(record.session)
                continue
            last = held[session_id]
            # A later one has not reached it, and is told no more.
            record.abandoned = {number for number in record.abandoned if number <= last}
            asked += [
                AskedSession(session_id, number, request)
                for number, (request, _) in record.asked.items()
                if number > last
            ]
            record.told = max(record.told, *record.asked, 0)
        return SessionNews(tuple(opens), tuple(asked), tuple(closed))

    async def answer(
        self, worker: str, session_id: str, number: int, answer: SessionAnswer
    ) -> None:
        record = self._records.get(session_id)
        if record is None or (record.worker == worker and number in record.abandoned):
            self._drop_answer(answer)
        if record is None or record.worker != worker:
            return
        record.abandoned.discard(number)
        request, answered = record.asked.get(number, (None, None))
        if isinstance(request, Open) and isinstance(answer, Done) and not record.is_open:
            record.is_open = True
            self.on_place()
        if answered is not None and not answered.done():
            answered.set_result(answer)

    def _drop_answer(self, answer: SessionAnswer) -> None:
        """Delete what was stored for a reader who has left; who waits deletes it itself."""
        if isinstance(answer, Stored):
            self.drop(answer.blob_id)

    async def over(self, worker: str, session_id: str, reason: EndReason) -> None:
        record = self._records.get(session_id)
        if record is not None and record.worker == worker:
            self._end(record, reason)

    # -- its jobs -------------------------------------------------------------------------

    def check_job(self, session_id: str | None) -> None:
        """Check that a job can be of a session. Raises `Gone`, `NotFound`."""
        if session_id is not None:
            self._living(session_id)

    def add_job(self, session_id: str, job_id: str, priority: int) -> int:
        """Let a job wait for its turn; return its priority, not above that of the one before it."""
        record = self._records[session_id]
        before = next(reversed(record.waiting.values()), priority)
        record.waiting[job_id] = min(priority, before)
        record.used = self._clock()
        self.waiting_jobs += 1
        return record.waiting[job_id]

    def may_run(self, session_id: str, worker: str) -> bool:
        """Return whether the worker may run a job of a session now."""
        record = self._records.get(session_id)
        # They keep their order: the queue has them in it.
        if record is None or record.worker != worker:
            return False
        return record.is_open and record.running is None

    def job_began(self, session_id: str, job_id: str) -> None:
        record = self._records[session_id]
        del record.waiting[job_id]
        self.waiting_jobs -= 1
        record.running = job_id

    def job_ended(self, session_id: str, job_id: str) -> None:
        record = self._records.get(session_id)
        if record is None:
            return
        record.used = self._clock()
        if job_id in record.waiting:
            del record.waiting[job_id]
            self.waiting_jobs -= 1
        elif record.running == job_id:
            record.running = None
            if record.waiting:
                self.on_place()

    # -- their ends -----------------------------------------------------------------------

    def expire(self) -> None:
        """End what is past its time, and forget what has ended long ago."""
        now = self._clock()
        for record in tuple(self._records.values()):
            session = record.session
            if self._is_lost(record.worker) and record.lease_until <= now:
                self._end(record, "worker_lost")
            elif record.begun + session.total_s <= now:
                self._end(record, "total_time")
            elif not record.in_use and record.used + session.idle_s <= now:
                self._end(record, "idle")
        self._ended.forget()

    def _is_lost(self, worker: str | None) -> bool:
        """Return whether a worker can be lost.

        One that waits here is not, though the whole process may have stood still (SIGSTOP, a
        machine that was suspended) for longer than a lease.
        """
        return worker is not None and worker not in self._listening

    def drain(self) -> None:
        """Open no more."""
        self._draining = True

    def close(self) -> None:
        """End all of them."""
        self.drain()
        for record in tuple(self._records.values()):
            self._end(record, "shutting_down")

    def _end(self, record: _Record, reason: EndReason) -> None:
        session = record.session
        del self._records[session.session_id]
        self._of[session.tenant] -= 1
        if not self._of[session.tenant]:
            del self._of[session.tenant]
        self._ended.add(session.session_id, session.tenant, reason, record.created_at)
        if session.project is not None:
            self.release(session.project.blob_id)
        for _, answered in record.asked.values():
            if not answered.done():
                answered.set_exception(session_gone(reason))
                answered.exception()  # marked as retrieved: the caller may have left
        jobs = [*record.waiting] if record.running is None else [record.running, *record.waiting]
        self.waiting_jobs -= len(record.waiting)
        record.waiting.clear()
        for job_id in jobs:
            self.end_job(job_id)
        self._bell.set()

    def _living(self, session_id: str) -> _Record:
        self.expire()
        record = self._records.get(session_id)
        if record is not None:
            return record
        if (ended := self._ended.get(session_id)) is not None:
            raise session_gone(ended.reason)
        raise NotFound(f"there is no session {session_id!r}")

    def _view(self, record: _Record) -> SessionView:
        session, now = record.session, self._clock()
        left_s = record.begun + session.total_s - now
        if not record.in_use:
            left_s = min(left_s, record.used + session.idle_s - now)
        state: Literal["opening", "idle", "running"] = "idle" if record.is_open else "opening"
        if record.running is not None:
            state = "running"
        expires_at = self._wall_clock() + left_s
        return SessionView(session, state, record.created_at, expires_at)

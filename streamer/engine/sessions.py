"""Define the sessions of an engine: their records, and requests to the workers that have them.

A session belongs to one worker, which has its sandbox. The API half only asks: each request has one
answer. Bytes go as blobs (`streamer.engine.blobs`). What holds for every engine, and is tested for
each by ``tests/engine/test_sessions.py``:

- A session has ended for everybody at once: then it takes no job and no request, and what waits for
  an answer gets `Gone`.
- Its jobs are claimed by its worker only, one after another, in their order.
- When it ends, its waiting jobs are over (``cancelled``), and its running one is cancelled.
- It ends by itself after its idle time without jobs and requests, after its total time, and if its
  worker has not called `news` for the time of a lease.

The calls of a worker can be repeated after ConnectionError: they are about states and numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from streamer.errors import Gone
from streamer.model.capabilities import Accepts
from streamer.model.session import EndReason, ResolvedSession, SessionAnswer, SessionRequest

__all__ = ["AskedSession", "SessionNews", "SessionView", "Sessions", "session_gone"]

WHY: Final[Mapping[EndReason, str]] = {
    "deleted": "it was ended by a request",
    "idle": "it was not used for its idle time",
    "total_time": "its time is up",
    "cpu_time": "what its jobs have left running used more CPU time than a job may",
    "memory": "what its jobs have left running used more memory than a job may",
    "disk": "what its jobs have left running wrote more, or more files, than a job may",
    "sandbox_error": "its sandbox could not be opened, or is broken",
    "worker_lost": "the worker that had it is gone",
    "shutting_down": "the service was stopped",
}


def session_gone(reason: EndReason) -> Gone:
    """Return the error for a session that has ended."""
    return Gone(f"the session has ended: {WHY[reason]}")


@dataclass(frozen=True, slots=True)
class SessionView:
    """A snapshot of a session. Times are in seconds since the epoch (`time.time`).

    `ended` is why it has ended, or None. At `expires_at` it ends unless it is used before.
    """

    session: ResolvedSession
    state: Literal["opening", "idle", "running"]
    created_at: float
    expires_at: float
    ended: EndReason | None = None


@dataclass(frozen=True, slots=True)
class AskedSession:
    """A request to a session. Numbers of one session grow from 1."""

    session_id: str
    number: int
    request: SessionRequest


@dataclass(frozen=True, slots=True)
class SessionNews:
    """What a worker has to do: open sessions, answer requests, close sessions."""

    opens: tuple[ResolvedSession, ...] = ()
    asked: tuple[AskedSession, ...] = ()
    closed: tuple[str, ...] = ()


class Sessions(Protocol):
    """The sessions of one engine. Of an ended one only its end is known, for a limited time."""

    # -- the API side ---------------------------------------------------------------------

    async def open(self, session: ResolvedSession) -> None:
        """Accept a session, for any worker that has its backend.

        Repeated with the same id it has no effect. Raises `Busy` or `RateLimited` if there are too
        many, `Draining`, and `InvalidJob` if its project is no longer there.
        """

    async def find(self, session_id: str) -> SessionView | None:
        """Return a snapshot of a session, also of an ended one; None if there is none."""

    async def of(self, tenant: str) -> Sequence[SessionView]:
        """Return the tenant's sessions that have not ended, newest first."""

    async def ask(self, session_id: str, request: SessionRequest) -> SessionAnswer:
        """Return the answer of the session's worker.

        Raises `Gone` if it has ended, or ends before, `NotFound` if there is none, `RateLimited`
        if too many requests of it wait, or are done by the worker though nobody waits any more: a
        call that is cancelled does not stop what the worker has begun.
        """

    async def end(self, session_id: str) -> bool:
        """End a session (``deleted``); False if there is none, or it has ended."""

    # -- the worker's side ----------------------------------------------------------------

    async def news(
        self, worker: str, held: Mapping[str, int], free: int, accepts: Accepts | None
    ) -> SessionNews:
        """Wait up to a second for news, and renew the worker's hold on its sessions.

        `held` are the sessions that it has, with the number of the last request that it has got.
        It can open `free` more, those that it `accepts`.
        """

    async def answer(
        self, worker: str, session_id: str, number: int, answer: SessionAnswer
    ) -> None:
        """Answer a request. If nobody waits for it any more, the blob of a `Stored` is deleted."""

    async def over(self, worker: str, session_id: str, reason: EndReason) -> None:
        """End a session that the worker has. Without effect if it has ended, or another has it."""

"""Cancel jobs without readers (``streams.on_disconnect = "cancel"``)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

from streamer.errors import StreamerError
from streamer.jobs.jobs import Jobs
from streamer.sse.session import Session
from streamer.sse.sessionmap import SessionMap

__all__ = ["CancelUnread"]


class CancelUnread:
    """A listener of the session map.

    A job is cancelled `delay_s` after its last reader has left, if no other has come. A job that
    never had a reader runs on.
    """

    def __init__(self, jobs: Jobs, sessions: SessionMap, delay_s: float) -> None:
        self._jobs = jobs
        self._sessions = sessions
        self._delay_s = delay_s
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._cancelling: set[asyncio.Task[None]] = set()

    def __call__(self, session: Session, change: Literal["opened", "closed"]) -> None:
        if change == "closed" and not self._jobs.draining.is_set():
            for job_id in session.keys:
                if not self._sessions.of(job_id):
                    self._wait_for_another(job_id)

    def _wait_for_another(self, job_id: str) -> None:
        # One timer for each job: a client that reconnects all the time must not leave thousands.
        if (timer := self._timers.pop(job_id, None)) is not None:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers[job_id] = loop.call_later(self._delay_s, self._look_again, job_id)

    def _look_again(self, job_id: str) -> None:
        del self._timers[job_id]
        if not self._sessions.of(job_id):
            task = asyncio.get_running_loop().create_task(self._cancel(job_id))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, job_id: str) -> None:
        with contextlib.suppress(StreamerError):  # it may have expired
            await self._jobs.job(job_id).cancel()

"""Ask for the end of a job, and break off what it is doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamer.worker.verdict import StopReason

__all__ = ["Stop", "Stopped"]


class Stopped(Exception):
    """The job was stopped before its first program."""


class Stop:
    """What ends a job before its own end. It may be asked for at any moment."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[StopReason] = self._loop.create_future()

    def ask(self, reason: StopReason) -> None:
        """Ask for the end; the first reason stands."""
        if not self.asked.done():
            self.asked.set_result(reason)

    @property
    def reason(self) -> StopReason | None:
        """Why the job is to end, if that was asked."""
        return self.asked.result() if self.asked.done() else None

    @asynccontextmanager
    async def unless_asked(self, limit_s: float) -> AsyncIterator[None]:
        """Break off what is inside when the end is asked for: raises `Stopped`, or TimeoutError."""
        try:
            async with asyncio.timeout(limit_s) as limit:

                def cut(_: asyncio.Future[StopReason]) -> None:
                    if inside:  # it may be called on when what is inside has just ended
                        limit.reschedule(self._loop.time())

                inside = True
                self.asked.add_done_callback(cut)
                try:
                    yield
                finally:
                    inside = False
                    self.asked.remove_done_callback(cut)
        except TimeoutError:
            if self.asked.done():
                raise Stopped from None
            raise

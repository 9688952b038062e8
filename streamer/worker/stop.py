"""Stop a job, and interrupt what it is waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, get_args

from streamer.worker.verdict import StopReason

__all__ = ["Stop", "Stopped"]

REASONS: Final = frozenset(get_args(StopReason))


class Stopped(Exception):
    """What a job waited for was interrupted by its stop."""


class Stop:
    """Whether and why a job is to be stopped. `request` may be called at any moment."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.requested: asyncio.Future[StopReason] = self._loop.create_future()

    def request(self, reason: StopReason) -> None:
        """Stop the job; only the first reason counts."""
        if not self.requested.done():
            self.requested.set_result(reason)

    @property
    def reason(self) -> StopReason | None:
        return self.requested.result() if self.requested.done() else None

    @contextmanager
    def part(self) -> Iterator[Stop]:
        """Yield the stop of a part of the job, which is stopped with the job, too."""
        part = Stop()
        if self.reason is not None:
            part.request(self.reason)

        def pass_on(requested: asyncio.Future[StopReason]) -> None:
            part.request(requested.result())

        self.requested.add_done_callback(pass_on)
        try:
            yield part
        finally:
            self.requested.remove_done_callback(pass_on)

    @asynccontextmanager
    async def unless_requested(
        self, limit_s: float, *, by: Container[StopReason] = REASONS
    ) -> AsyncIterator[None]:
        """Interrupt a block: raises `Stopped` when the job is stopped, or TimeoutError.

        `by` are the reasons that count.
        """
        try:
            async with asyncio.timeout(limit_s) as limit:

                def cut(requested: asyncio.Future[StopReason]) -> None:
                    # It may be called when the block has just ended, or is being cancelled
                    # because its time is up.
                    if inside and not limit.expired() and requested.result() in by:
                        limit.reschedule(self._loop.time())

                inside = True
                self.requested.add_done_callback(cut)
                try:
                    yield
                finally:
                    inside = False
                    self.requested.remove_done_callback(cut)
        except TimeoutError:
            if self.reason in by:
                raise Stopped from None
            raise

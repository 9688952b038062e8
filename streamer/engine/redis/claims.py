"""The claims of one worker: jobs of an answer that was lost, or came too late, are not lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from streamer.engine.redis.lease import RedisLease
from streamer.model.capabilities import Accepts

__all__ = ["Ask", "Claims"]

Ask = Callable[[int, int, Accepts | None], Awaitable[list[RedisLease]]]
"""Claim with a number, for a number of places; a repetition with the same number is answered as
the first call was."""


class Claims:
    def __init__(self, ask: Ask, bell: asyncio.Event, wait_s: float) -> None:
        self._ask = ask
        self._bell = bell
        self._wait_s = wait_s
        self._number = 0
        self._answered = True
        self._asking: asyncio.Task[None] | None = None
        self._left: list[RedisLease] = []
        self.waiting = False
        """Whether the worker waits for an answer."""

    async def claim(self, free: int, accepts: Accepts | None) -> Sequence[RedisLease]:
        """Return the jobs of the unanswered claim, otherwise those of a new one."""
        self.waiting = True
        try:
            self._bell.clear()
            await self._once(free, accepts)
            if not self._left and free > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s):
                        await self._bell.wait()
                await self._once(free, accepts)
        finally:
            self.waiting = False
        leases, self._left = self._left[:free], self._left[free:]
        return leases

    async def end(self) -> list[RedisLease]:
        """Return the claimed jobs that the worker will no longer fetch."""
        if self._asking is not None or not self._answered:
            await self._once(0, None)
        leases, self._left = self._left, []
        return leases

    async def _once(self, free: int, accepts: Accepts | None) -> None:
        if self._asking is not None:
            # One whose caller has left.
            await asyncio.shield(self._asking)
        if self._left:
            return
        self._asking = asyncio.create_task(self._take(free, accepts))
        self._asking.add_done_callback(_seen)
        await asyncio.shield(self._asking)

    async def _take(self, free: int, accepts: Accepts | None) -> None:
        try:
            if self._answered:
                self._number += 1
                self._answered = False
            self._left += await self._ask(self._number, free, accepts)
            self._answered = True
        finally:
            self._asking = None


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # its caller may have left; the call is repeated

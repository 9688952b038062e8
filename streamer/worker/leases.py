"""Renew the leases of a worker's jobs, and end the jobs in time if that is not possible."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final

from streamer.engine.interface import Cancel, Engine, Lease, Lost
from streamer.engine.lifetime import name_of
from streamer.sandbox.lifeline import Lifeline
from streamer.worker.execution import Execution
from streamer.worker.verdict import StopReason

__all__ = ["Leases"]

log: Final = logging.getLogger(__name__)

BEATS: Final = 3
"""A lease lasts for this many heartbeats."""

LEASED: Final = 0.9
"""At this part of a lease the programs of a worker that stands still end: that takes time, too."""

RETRY_S: Final = 1.0

Call = Callable[..., Awaitable[Any]]
"""Returns the engine's answer, or None if there is none in time: `Worker._call`."""


class Leases:
    """Those of one worker. `running` returns its jobs that are not over."""

    def __init__(
        self, engine: Engine, call: Call, running: Callable[[], Collection[Execution]]
    ) -> None:
        self._engine = engine
        self._call = call
        self._running = running
        self._lifeline: Lifeline | None = None
        self._fence: asyncio.TimerHandle | None = None
        """Stops all jobs, unless the engine answers before."""
        self.cut_off = False
        """Whether it has done so, and the engine has not answered since."""
        self._warned = False

    async def keep(self, lifeline: Lifeline) -> None:
        """Renew them without end, and stop jobs that may have been given to another worker."""
        loop = asyncio.get_running_loop()
        beat_s = self._engine.heartbeat_s
        self._lifeline = lifeline
        begun_at = loop.time()
        self._go_on_from(begun_at, lifeline.now_us())
        try:
            while True:
                await asyncio.sleep(begun_at + beat_s - loop.time())
                begun_at = loop.time()
                if await self._renew() is not None:
                    # The next heartbeat is due after that.
                    await self._call("reap", self._engine.reap, beat_s)
        finally:
            if self._fence is not None:
                self._fence.cancel()

    async def lost_of(self, claimed: Sequence[Lease]) -> Collection[Lease]:
        """Return those that must not begin: after a cut they may have been claimed long ago."""
        while self.cut_off:
            if (lost := await self._renew(claimed)) is not None:
                return lost
            await asyncio.sleep(RETRY_S)
        return ()

    async def _renew(self, claimed: Sequence[Lease] = ()) -> Collection[Lease] | None:
        """Renew all leases, those that were claimed too; return the lost ones.

        None if the engine has not answered.
        """
        asked_at, asked_us = asyncio.get_running_loop().time(), Lifeline.now_us()
        running = {execution.lease: execution for execution in self._running()}
        beat = partial(self._heartbeat, (*running, *claimed))
        told = await self._call("heartbeat", beat, self._engine.heartbeat_s)
        if told is None:
            return None
        self._go_on_from(asked_at, asked_us)
        for lease, control in told:
            reason: StopReason = "cancelled" if isinstance(control, Cancel) else "lost"
            if (execution := running.get(lease)) is not None:
                execution.stop(reason)
        return [lease for lease, control in told if isinstance(control, Lost)]

    def _go_on_from(self, asked_at: float, asked_us: int) -> None:
        """Let the jobs go on for as long as no other worker can have them.

        Their leases lasted at least from then on, by the clocks of the loop and the lifeline.
        """
        if self._engine.alone or self._lifeline is None:
            return
        beat_s = self._engine.heartbeat_s
        self.cut_off = False
        if self._fence is not None:
            self._fence.cancel()
        loop = asyncio.get_running_loop()
        self._fence = loop.call_at(asked_at + (BEATS - 1) * beat_s, self._end_all)
        # In case this process cannot do it then.
        self._lifeline.extend(asked_us + int(BEATS * LEASED * beat_s * 1e6))

    def _end_all(self) -> None:
        """Stop all jobs: the engine may give them to others."""
        self.cut_off = True
        running = self._running()
        if running:
            log.error("the engine has not answered for too long: %d jobs are stopped", len(running))
        for execution in running:
            execution.stop("lost")

    async def _heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        answer: object = await self._engine.heartbeat(leases)
        if isinstance(answer, Iterable):
            return [(lease, control) for lease, control in answer]
        # The engine has renewed the leases, so this is no reason to kill their jobs; and it may
        # still tell `Lease.control` of lost ones.
        if not self._warned:
            self._warned = True
            log.error(
                "heartbeat() of the engine %s returned %r, not a list of the lost leases: the "
                "engine was written for another version, and lost leases may go unnoticed",
                *(name_of(self._engine), answer),
            )
        return ()

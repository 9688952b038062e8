"""Write the events of a running job to its lease, at the pace at which its log takes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Literal

from streamer.engine.interface import Lease
from streamer.model.events import JobEvent, encode
from streamer.worker.finish import ENGINE_TIMEOUT_S

__all__ = ["Writer"]


class Writer:
    """Writes what comes before the terminal event. Each answer of the engine has a bound."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.program_ended = asyncio.Event()
        """Set while no program runs that could be slowed down."""

    def elapsed_ms(self) -> int:
        """Return how long ago the job was accepted."""
        return int((time.monotonic() - self._lease.accepted_at) * 1000)

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        """Tell what the job does now, and what confines it."""
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await self._lease.state(state, policy)

    async def write(self, events: Sequence[JobEvent]) -> None:
        """Append events, and return when more may come."""
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await self._lease.append([encode(event) for event in events])
        if self._lease.full and not self.program_ended.is_set():
            # Nothing is read meanwhile, so the program's writes block, at most until its wall
            # limit; a dead one has little left.
            await _first_of(self._lease.room(), self.program_ended.wait())


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for one of several things and give up the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""Write the events of a running job to its lease, as fast as its log accepts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Literal

from streamer.engine.interface import Lease
from streamer.model.events import JobEvent, encode
from streamer.worker.finish import ENGINE_TIMEOUT_S
from streamer.worker.repeat import repeated

__all__ = ["Writer"]


class Writer:
    """Writes the events before the terminal one. Each wait for the engine has a time limit.

    Until then a call that lost its connection is repeated.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.program_ended = asyncio.Event()
        """Set while no program runs that would have to be slowed down."""

    def elapsed_ms(self) -> int:
        """Return how long ago the job was accepted."""
        return int((time.monotonic() - self._lease.accepted_at) * 1000)

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        """Record the job's state, and the digest of its policy."""
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await repeated(lambda: self._lease.state(state, policy))

    async def write(self, events: Sequence[JobEvent]) -> None:
        """Append events, and return when the log can take more."""
        encoded = [encode(event) for event in events]
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await repeated(lambda: self._lease.append(encoded))
        if self._lease.full and not self.program_ended.is_set():
            # Nothing is read meanwhile, so the program's writes block, at most until its wall
            # time limit; a dead program has little output left.
            await _first_of(self._lease.room(), self.program_ended.wait())


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of several coroutines and cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

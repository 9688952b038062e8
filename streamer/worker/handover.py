"""Give back the jobs of a worker that stops, of which nothing has run yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from streamer.engine.interface import Lease
from streamer.worker.execution import Execution

__all__ = ["given_back"]


async def given_back(
    running: Iterable[Execution],
    unbegun: Sequence[Lease],
    call: Callable[..., Awaitable[Any]],
    timeout_s: float,
) -> Sequence[Lease]:
    """Offer all jobs to the engine, which knows whether others can run them.

    Those that it takes of the `running` ones are stopped; return those of the others that it does
    not. `call` is `Worker._call`, with a time limit for each answer.
    """

    async def takes(lease: Lease) -> bool:
        async def release() -> bool:
            return await lease.release()  # an engine may have no such thing

        return bool(await call("release", release, timeout_s))

    async def stopped_if_taken(execution: Execution) -> None:
        if await takes(execution.lease):
            execution.stop("lost")

    async with asyncio.TaskGroup() as tasks:
        for execution in running:
            tasks.create_task(stopped_if_taken(execution))
        asked = [(lease, tasks.create_task(takes(lease))) for lease in unbegun]
    return [lease for lease, taken in asked if not taken.result()]

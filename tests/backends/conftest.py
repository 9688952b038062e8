"""Run jobs of a service, and check after each that nothing of it is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from streamer.compose import Parts
from tests.running import Ran, adopt_orphans, kept_besides, run_job

Run = Callable[..., Awaitable[Ran]]


async def checked_runs(service: Parts) -> AsyncIterator[Run]:
    """Yield a function that runs one job and checks at its end that nothing of it is left.

    At its end, not some time later: that is what the terminal event promises.
    """
    adopt_orphans()
    assert service.worker.pool is not None
    processes, files = kept_besides(service.worker.pool)

    async def run_checked(**spec: Any) -> Ran:
        ran = await run_job(service, **spec)
        assert kept_besides(service.worker.pool) == (processes, files), ran.events
        return ran

    yield run_checked
    await service.drain(0)
    assert list((service.worker.pool.folder.path / "jobs").iterdir()) == []

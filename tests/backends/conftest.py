"""Run jobs in each backend, and look after each whether anything of them is left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from streamer.service import JobService
from tests.conftest import OpenService
from tests.jobs import Ran, adopt_orphans, descendants, descriptors, run_job

Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def service(open_service: OpenService, backend: str) -> JobService:
    """Return a running service of the backend under test."""
    return await open_service(backend)


@pytest.fixture
async def run(service: JobService) -> AsyncIterator[Run]:
    """Return a function that runs one job and checks at its end that nothing of it is left.

    At its end, not some time later: that is what the terminal event promises.
    """
    async for checked in checked_runs(service):
        yield checked


async def checked_runs(service: JobService) -> AsyncIterator[Run]:
    """Yield the function of the fixture `run` for a service."""
    adopt_orphans()
    processes, files = descendants(), descriptors()

    async def run_checked(**spec: Any) -> Ran:
        ran = await run_job(service, **spec)
        assert descendants() == processes, ran.events
        assert descriptors() == files, ran.events
        return ran

    yield run_checked
    await service.drain(0)
    assert service._folder is not None
    assert list((service._folder.path / "jobs").iterdir()) == []

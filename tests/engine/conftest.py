"""Run the suite against every engine: one `Bench` each."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Protocol, TypedDict, Unpack

import pytest

from streamer.engine.interface import Engine
from streamer.engine.memory.admission import QueueLimits
from streamer.engine.memory.blobs import BlobLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits

from .remote.engine import RemoteEngine
from .remote.server import Server
from .remote.wire import Wire


class Options(TypedDict, total=False):
    """What a test may set; sizes in bytes, times in seconds."""

    max_waiting: int
    max_waiting_bytes: int
    max_waiting_per_client: int
    max_waiting_bytes_per_client: int
    max_running_per_client: int
    places: int
    retention_s: float
    retention_bytes: int
    lease_s: float
    places_s: float
    blob_bytes: int
    blob_bytes_per_client: int
    max_blobs: int


DEFAULTS = Options(
    max_waiting=1000,
    max_waiting_bytes=64 * 1024 * 1024,
    max_waiting_per_client=1000,
    max_waiting_bytes_per_client=64 * 1024 * 1024,
    max_running_per_client=1000,
    places=4,
    retention_s=600.0,
    retention_bytes=64 * 1024 * 1024,
    lease_s=15.0,
    places_s=0.0,
    blob_bytes=64 * 1024 * 1024,
    blob_bytes_per_client=64 * 1024 * 1024,
    max_blobs=1000,
)


class Bench(Protocol):
    """One kind of engine, with a clock that the test controls."""

    async def make(self, **options: Unpack[Options]) -> Engine:
        """Return a new engine; the fixture closes it."""

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock of leases and retention."""

    async def close(self) -> None:
        """Close what `make` made."""


class MemoryBench:
    def __init__(self) -> None:
        self.now = 1000.0
        self._engines: list[MemoryEngine] = []

    async def make(self, **options: Unpack[Options]) -> Engine:
        return self.memory(**options)

    def memory(self, **options: Unpack[Options]) -> MemoryEngine:
        chosen = DEFAULTS | options
        engine = MemoryEngine(
            queue=QueueLimits(
                places=chosen["places"],
                max_waiting=chosen["max_waiting"],
                max_waiting_bytes=chosen["max_waiting_bytes"],
                max_waiting_per_client=chosen["max_waiting_per_client"],
                max_waiting_bytes_per_client=chosen["max_waiting_bytes_per_client"],
                max_running_per_client=chosen["max_running_per_client"],
            ),
            retention_s=chosen["retention_s"],
            retention=RetentionLimits(memory=chosen["retention_bytes"]),
            lease_s=chosen["lease_s"],
            places_s=chosen["places_s"],
            blobs=BlobLimits(
                total=chosen["blob_bytes"],
                tenant=chosen["blob_bytes_per_client"],
                number=chosen["max_blobs"],
            ),
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
        )
        self._engines.append(engine)
        return engine

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()


class RemoteBench(MemoryBench):
    """The same engine behind a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._remote: list[RemoteEngine] = []

    async def make(self, **options: Unpack[Options]) -> Engine:
        seed = random.randrange(10**6)
        print(f"the connection's seed: {seed}")  # noqa: T201 - shown with a failure
        server = Server(self.memory(**options), clock=lambda: self.now)
        engine = RemoteEngine(server, Wire(seed, patient=True))
        self._remote.append(engine)
        return engine

    async def pass_time(self, seconds: float) -> None:
        # The lag of a mirror is negligible compared with the times that tests let pass.
        for engine in self._remote:
            await engine.settle()
        await super().pass_time(seconds)

    async def close(self) -> None:
        for engine in self._remote:
            await engine.close()


@pytest.fixture(
    params=[pytest.param(MemoryBench, id="memory"), pytest.param(RemoteBench, id="remote")]
)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench: Bench = request.param()
    yield bench
    await bench.close()


@pytest.fixture
async def engine(bench: Bench) -> Engine:
    return await bench.make()

"""Run the suite against every engine: one `Bench` each."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import pytest

from streamer.engine.interface import Engine
from streamer.engine.limits import (
    BlobLimits,
    QueueLimits,
    SessionLimits,
    TenantLimits,
    WebhookLimits,
)
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.engine.redis.address import parse_address
from streamer.engine.redis.engine import RedisEngine
from streamer.engine.redis.limits import RedisLimits
from streamer.engine.stores.address import FolderAddress
from streamer.engine.stores.folder import FolderStore
from streamer.engine.stores.s3 import S3Store
from streamer.engine.stores.store import Store
from tests.s3server import S3Server

from .remote.engine import RemoteEngine
from .remote.server import Server
from .remote.wire import Wire


class Options(TypedDict, total=False):
    """What a test may set; sizes in bytes, times in seconds."""

    max_waiting: int
    max_waiting_bytes: int
    max_waiting_per_client: int
    max_waiting_bytes_per_client: int
    max_running_per_client: int | None
    by_places: bool
    places: int
    retention_s: float
    retention_bytes: int
    lease_s: float
    places_s: float
    blob_bytes: int
    blob_bytes_per_client: int
    max_blobs: int
    max_sessions: int
    max_sessions_per_client: int
    max_ended_sessions: int
    max_blobs_per_client: int | None
    tenants: Mapping[str, TenantLimits]
    max_webhooks: int
    max_webhook_bytes: int
    max_webhooks_per_client: int | None
    webhooks_of_place: int
    webhooks_of_client: int | None


DEFAULTS = Options(
    max_waiting=1000,
    max_waiting_bytes=64 * 1024 * 1024,
    max_waiting_per_client=1000,
    max_waiting_bytes_per_client=64 * 1024 * 1024,
    max_running_per_client=1000,
    by_places=False,
    places=4,
    retention_s=600.0,
    retention_bytes=64 * 1024 * 1024,
    lease_s=15.0,
    places_s=0.0,
    blob_bytes=64 * 1024 * 1024,
    blob_bytes_per_client=64 * 1024 * 1024,
    max_blobs=1000,
    max_sessions=8,
    max_sessions_per_client=8,
    max_ended_sessions=100,
    max_blobs_per_client=None,
    tenants={},
    max_webhooks=1000,
    max_webhook_bytes=64 * 1024 * 1024,
    max_webhooks_per_client=None,
    webhooks_of_place=4,
    webhooks_of_client=None,
)


def _queue(chosen: Options) -> QueueLimits:
    return QueueLimits(
        places=chosen["places"],
        max_waiting=chosen["max_waiting"],
        max_waiting_bytes=chosen["max_waiting_bytes"],
        max_waiting_per_client=chosen["max_waiting_per_client"],
        max_waiting_bytes_per_client=chosen["max_waiting_bytes_per_client"],
        max_running_per_client=chosen["max_running_per_client"],
        by_places=chosen["by_places"],
        tenants=chosen["tenants"],
    )


def _blobs(chosen: Options) -> BlobLimits:
    return BlobLimits(
        total=chosen["blob_bytes"],
        tenant=chosen["blob_bytes_per_client"],
        number=chosen["max_blobs"],
        number_of_one=chosen["max_blobs_per_client"],
        tenants=chosen["tenants"],
    )


def _sessions(chosen: Options) -> SessionLimits:
    return SessionLimits(
        total=chosen["max_sessions"],
        tenant=chosen["max_sessions_per_client"],
        ended=chosen["max_ended_sessions"],
        ended_s=chosen["retention_s"],
        tenants=chosen["tenants"],
    )


def _webhooks(chosen: Options) -> WebhookLimits:
    return WebhookLimits(
        pending=chosen["max_webhooks"],
        pending_bytes=chosen["max_webhook_bytes"],
        pending_of_one=chosen["max_webhooks_per_client"],
        at_once_of_place=chosen["webhooks_of_place"],
        at_once_of_one=chosen["webhooks_of_client"],
        lease_s=chosen["lease_s"],
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
            queue=_queue(chosen),
            retention_s=chosen["retention_s"],
            retention=RetentionLimits(memory=chosen["retention_bytes"]),
            lease_s=chosen["lease_s"],
            places_s=chosen["places_s"],
            blobs=_blobs(chosen),
            sessions=_sessions(chosen),
            webhooks=_webhooks(chosen),
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


class RedisBench:
    """The Redis engine, each with keys of its own in one real server."""

    def __init__(
        self, url: Callable[[], str], store: Callable[[], Store | None] = lambda: None
    ) -> None:
        self.now = 1000.0
        self.url = url
        self._store = store
        self._engines: list[RedisEngine] = []

    async def make(self, **options: Unpack[Options]) -> Engine:
        return await self.make_redis(**options)

    async def make_redis(self, **options: Unpack[Options]) -> RedisEngine:
        chosen = DEFAULTS | options
        limits = RedisLimits(
            queue=_queue(chosen),
            kept_bytes=chosen["retention_bytes"],
            log_bytes=chosen["retention_bytes"],
            blobs=_blobs(chosen),
            sessions=_sessions(chosen),
            retention_s=chosen["retention_s"],
            lease_s=chosen["lease_s"],
            places_s=chosen["places_s"],
            webhooks=_webhooks(chosen),
        )
        engine = RedisEngine(
            parse_address(self.url()), limits, store=self._store(), clock=lambda: self.now
        )
        self._engines.append(engine)
        await engine.connect()
        return engine

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds

    async def close(self) -> None:
        for engine in self._engines:
            await engine.close()


@pytest.fixture(params=["memory", "remote", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench = bench_of(request)
    yield bench
    await bench.close()


def bench_of(request: pytest.FixtureRequest) -> Bench:
    """Return the bench that the parameter of a fixture names; those of stores are for blobs."""
    if request.param == "memory":
        return MemoryBench()
    if request.param == "remote":
        return RemoteBench()
    url = request.getfixturevalue("redis").url
    if request.param == "redis-folder":
        folder: Path = request.getfixturevalue("tmp_path") / "store"
        return RedisBench(url, lambda: FolderStore(FolderAddress(folder)))
    if request.param == "redis-s3":
        server: S3Server = request.getfixturevalue("s3_server")
        return RedisBench(url, lambda: S3Store(server.address()))
    return RedisBench(url)


@pytest.fixture
async def engine(bench: Bench) -> Engine:
    return await bench.make()

"""The promises of every engine: a tenant may have limits of its own, below and above the usual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from streamer.engine.blobs import Blobs
from streamer.engine.interface import Input
from streamer.engine.limits import TenantLimits
from streamer.errors import RateLimited, TooLarge
from streamer.model.job import Limits
from streamer.model.session import ResolvedSession

from . import ACCEPTS, make_job, submit
from .conftest import Bench

ODD = "a/b \n\u0301"


def session(session_id: str, tenant: str) -> ResolvedSession:
    return ResolvedSession(session_id, tenant, "plain", Limits(), 600.0, 3600.0)


@pytest.mark.parametrize("tenant", ["a", "", ODD])
async def test_its_number_of_waiting_jobs(bench: Bench, tenant: str) -> None:
    limits = {tenant: TenantLimits(waiting=1), "large": TenantLimits(waiting=4)}
    engine = await bench.make(max_waiting_per_client=2, tenants=limits)
    for name, most, key in (
        (tenant, 1, "max_waiting in auth.tenants"),
        ("large", 4, "max_waiting in auth.tenants"),
        ("other", 2, "queue.max_per_client"),
    ):
        await submit(engine, *[name] * most)
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await submit(engine, name)


async def test_its_number_of_running_jobs(bench: Bench) -> None:
    limits = {"a": TenantLimits(running=1), "b": TenantLimits(running=3)}
    engine = await bench.make(places=20, max_running_per_client=2, tenants=limits)
    await submit(engine, *"aaaabbbbcccc")
    leases = [*await engine.claim("worker", 20, ACCEPTS)]
    views = [await engine.summary(lease.job.job_id) for lease in leases]
    running = sorted(view.tenant for view in views if view is not None)
    assert "".join(running) == "abbbcc"
    assert not await engine.claim("worker", 20, ACCEPTS)


async def test_what_its_waiting_jobs_weigh(bench: Bench) -> None:
    limits = {"a": TenantLimits(waiting_bytes=50_000), "b": TenantLimits(waiting_bytes=500_000)}
    engine = await bench.make(max_waiting_bytes_per_client=100_000, tenants=limits)

    async def weighing(tenant: str, size: int) -> str:
        job = replace(make_job(), stdin=b"x" * size)
        await engine.submit(job, tenant=tenant)
        return job.job_id

    for tenant, most, key in (
        ("a", 50_000, "max_waiting_bytes in auth.tenants"),
        ("b", 500_000, "max_waiting_bytes in auth.tenants"),
        ("c", 100_000, "queue.max_waiting_bytes"),
    ):
        with pytest.raises(TooLarge, match=rf"\({key}\)"):
            await weighing(tenant, most)
        first = await weighing(tenant, most * 6 // 10)
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await weighing(tenant, most * 6 // 10)
        # What is sent to a job that waits counts too.
        assert await engine.send(first, Input(b"x" * (most // 10))) == "accepted"
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await engine.send(first, Input(b"x" * (most * 4 // 10)))


async def test_its_number_of_sessions(bench: Bench) -> None:
    limits = {"a": TenantLimits(sessions=0), "b": TenantLimits(sessions=3)}
    engine = await bench.make(max_sessions=8, max_sessions_per_client=1, tenants=limits)
    for tenant, most, key in (
        ("a", 0, "max_sessions in auth.tenants"),
        ("b", 3, "max_sessions in auth.tenants"),
        ("c", 1, "sessions.max_per_client"),
    ):
        for number in range(most):
            await engine.sessions.open(session(f"{tenant}{number}", tenant))
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await engine.sessions.open(session(f"{tenant}x", tenant))


async def store(blobs: Blobs, tenant: str, size: int = 0) -> None:
    async with blobs.create(tenant, 1024 * 1024) as writer:
        await writer.write(bytes(size))
        await writer.commit()


async def test_its_number_of_blobs(bench: Bench, tmp_path: Path) -> None:
    limits = {"a": TenantLimits(blobs=0), "b": TenantLimits(blobs=3)}
    engine = await bench.make(max_blobs_per_client=1, tenants=limits)
    await engine.start(tmp_path)
    for tenant, most, key in (
        ("a", 0, "max_blobs in auth.tenants"),
        ("b", 3, "max_blobs in auth.tenants"),
        ("c", 1, "engine.max_blobs"),
    ):
        for _ in range(most):
            await store(engine.blobs, tenant)
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await store(engine.blobs, tenant)


async def test_the_disk_space_of_its_blobs(bench: Bench, tmp_path: Path) -> None:
    limits = {"a": TenantLimits(blob_bytes=20_000), "b": TenantLimits(blob_bytes=200_000)}
    engine = await bench.make(blob_bytes_per_client=80_000, tenants=limits)
    await engine.start(tmp_path)
    for tenant, most, key in (
        ("a", 20_000, "blob_bytes in auth.tenants"),
        ("b", 200_000, "blob_bytes in auth.tenants"),
        ("c", 80_000, "engine.blob_bytes_per_client"),
    ):
        await store(engine.blobs, tenant, most - 10_000)
        with pytest.raises(RateLimited, match=rf"\({key}\)"):
            await store(engine.blobs, tenant, 10_000)

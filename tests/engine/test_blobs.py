"""What holds for the blobs of every engine; and, of the memory engine's, disks that fail."""

from __future__ import annotations

import asyncio
import errno
import gc
import hashlib
import os
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.engine.blobs import Blob, Blobs
from streamer.engine.limits import BlobLimits
from streamer.engine.memory.blobs import ENTRY_BYTES, PAGE_BYTES, DiskBlobs
from streamer.errors import Busy, InvalidJob, NotFound, RateLimited, TooLarge
from streamer.model.job import JobProject, ResolvedJob
from tests.support import until_stored

from . import claim_one, complete, make_job
from .conftest import Bench, bench_of

MOST = 1024 * 1024


@pytest.fixture(params=["memory", "remote", "redis", "redis-folder", "redis-s3"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    bench = bench_of(request)
    yield bench
    await bench.close()


@pytest.fixture
async def blobs(bench: Bench, tmp_path: Path) -> Blobs:
    engine = await bench.make(
        blob_bytes=8 * PAGE_BYTES, blob_bytes_per_client=5 * PAGE_BYTES, max_blobs=3
    )
    await engine.start(tmp_path)
    return engine.blobs


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskBlobs]:
    blobs = DiskBlobs(BlobLimits(8 * PAGE_BYTES, 5 * PAGE_BYTES))
    blobs.use_folder(tmp_path)
    yield blobs
    await blobs.close()
    assert list((tmp_path / "blobs").iterdir()) == []


async def store(blobs: Blobs, data: bytes = b"x", tenant: str = "", **how: object) -> Blob:
    async with blobs.create(tenant, MOST, **how) as writer:  # type: ignore[arg-type]
        await writer.write(data)
        return await writer.commit()


async def content(blobs: Blobs, blob_id: str) -> bytes:
    async with blobs.open(blob_id) as fd:
        return os.pread(fd, MOST, 0)


async def test_what_finds_no_room_does_not_wait_for_the_garbage_collector(blobs: Blobs) -> None:
    """The error has every frame that it has passed, with the bytes that were to be written."""
    gc.collect()
    gc.disable()
    try:
        told = None
        try:
            await store(blobs, bytes(6 * PAGE_BYTES), "alice")
        except RateLimited as refusal:  # `pytest.raises` would keep it
            told = weakref.ref(refusal)
        await asyncio.sleep(0)  # the loop has what woke this until its next turn
        assert told is not None
        assert told() is None
    finally:
        gc.enable()


async def test_a_blob_is_what_was_written(blobs: Blobs) -> None:
    async with blobs.create("alice", MOST) as writer:
        await writer.write(b"one, ")
        await writer.write(b"")
        await writer.write(b"two")
        blob = await writer.commit()
    assert (blob.bytes, blob.sha256) == (8, hashlib.sha256(b"one, two").hexdigest())
    assert await content(blobs, blob.id) == b"one, two"


async def test_what_is_known_of_a_blob(bench: Bench, blobs: Blobs) -> None:
    blob = await store(blobs, tenant="alice", kind="project", keep_s=60.0)
    facts = await blobs.find(blob.id)
    assert facts is not None
    assert (facts.blob, facts.tenant, facts.kind) == (blob, "alice", "project")
    assert facts.expires_at == facts.created_at + 60.0
    assert await blobs.find("0" * 32) is None


async def test_a_descriptor_cannot_be_written(blobs: Blobs) -> None:
    blob = await store(blobs)
    async with blobs.open(blob.id) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.write(fd, b"y")
        assert not os.get_inheritable(fd)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


async def test_what_is_not_committed_leaves_nothing(blobs: Blobs) -> None:
    async with blobs.create("alice", MOST) as writer:
        await writer.write(b"x")
        assert await blobs.used_by("alice") == ENTRY_BYTES + PAGE_BYTES
    with pytest.raises(ValueError, match="on purpose"):
        async with blobs.create("alice", MOST) as writer:
            await writer.write(b"x")
            raise ValueError("on purpose")
    assert (await blobs.used_by("alice"), await blobs.used_bytes()) == (0, 0)


async def test_a_deleted_blob_frees_its_space_when_nobody_reads_it(blobs: Blobs) -> None:
    blob = await store(blobs)
    async with blobs.open(blob.id) as fd:
        await blobs.delete(blob.id)
        assert await blobs.find(blob.id) is None
        with pytest.raises(NotFound):
            await content(blobs, blob.id)
        assert os.pread(fd, MOST, 0) == b"x"
    await blobs.delete(blob.id)  # once more: without effect
    await until_stored(blobs, 0)


async def test_a_blob_expires(bench: Bench, blobs: Blobs) -> None:
    blob = await store(blobs, keep_s=60.0)
    kept = await store(blobs)
    await bench.pass_time(59.0)
    assert await content(blobs, blob.id) == b"x"
    await bench.pass_time(1.0)
    assert await blobs.find(blob.id) is None
    with pytest.raises(NotFound):
        await content(blobs, blob.id)
    assert await content(blobs, kept.id) == b"x"


async def test_expired_blobs_make_room(bench: Bench, blobs: Blobs) -> None:
    for _ in range(2):
        await store(blobs, bytes(PAGE_BYTES), keep_s=60.0)
    with pytest.raises(RateLimited):
        await store(blobs, bytes(PAGE_BYTES))
    await bench.pass_time(60.0)
    for tenant in ("a", "b", "c"):  # in bytes, and in number
        await store(blobs, tenant=tenant)


async def test_evictable_blobs_make_room(bench: Bench, tmp_path: Path) -> None:
    engine = await bench.make(blob_bytes=8 * PAGE_BYTES, blob_bytes_per_client=5 * PAGE_BYTES)
    await engine.start(tmp_path)
    blobs = engine.blobs
    bobs = await store(blobs, tenant="bob")
    old, new = [await store(blobs, tenant="alice") for _ in range(2)]
    for blob in (bobs, old, new):
        await blobs.make_evictable(blob.id)
    assert await content(blobs, old.id) == b"x"  # so the other goes first
    await store(blobs, bytes(2 * PAGE_BYTES), tenant="alice")
    assert [await blobs.find(blob.id) is not None for blob in (bobs, old, new)] == [
        True,
        True,
        False,
    ]
    await blobs.delete(old.id)
    await store(blobs, b"", tenant="alice")  # her own are gone, and bob's stays
    with pytest.raises(RateLimited):
        await store(blobs, bytes(PAGE_BYTES), tenant="alice")
    assert await blobs.find(bobs.id) is not None
    await store(blobs, bytes(2 * PAGE_BYTES), tenant="carol")  # the disk is everybody's
    assert await blobs.find(bobs.id) is None
    await blobs.make_evictable(bobs.id)


async def test_an_evictable_blob_does_not_give_way_while_it_is_read(disk: DiskBlobs) -> None:
    one, other = [await store(disk) for _ in range(2)]
    for blob in (one, other):
        await disk.make_evictable(blob.id)
    async with disk.open(one.id) as fd:
        new = await store(disk, bytes(PAGE_BYTES))
        assert await disk.find(one.id) is not None
        assert await disk.find(other.id) is None
        with pytest.raises(RateLimited):
            await store(disk, bytes(2 * PAGE_BYTES))
        assert os.pread(fd, 1, 0) == b"x"
    for blob in (one, new):
        await disk.delete(blob.id)


async def test_what_gives_way_is_not_looked_for_where_that_does_not_help(
    disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that hangs each would take its time."""
    go_on = threading.Event()
    blobs = [await store(disk) for _ in range(2)]
    for blob in blobs:
        await disk.make_evictable(blob.id)
    monkeypatch.setattr("streamer.engine.diskcalls.CALL_S", 0.01)
    unlink = Path.unlink

    def hang(path: Path, **how: bool) -> None:
        go_on.wait()
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", hang)
    with pytest.raises(RateLimited):
        await disk.charge("", 2 * PAGE_BYTES)
    assert [await disk.find(blob.id) is None for blob in blobs] == [True, False]
    go_on.set()
    await disk.delete(blobs[1].id)


async def test_the_blobs_own_limit(blobs: Blobs) -> None:
    async with blobs.create("", 10) as writer:
        await writer.write(b"0123456789")
        with pytest.raises(TooLarge):
            await writer.write(b"x")
    assert await blobs.used_bytes() == 0


async def test_a_tenant_has_a_share_of_the_disk(blobs: Blobs) -> None:
    async with blobs.create("alice", MOST) as writer:
        await writer.write(bytes(4 * PAGE_BYTES))
        with pytest.raises(RateLimited):
            await writer.write(b"x")
        await store(blobs, tenant="bob")
    await store(blobs, bytes(4 * PAGE_BYTES), tenant="alice")


async def test_all_tenants_share_the_disk(blobs: Blobs) -> None:
    await store(blobs, bytes(4 * PAGE_BYTES), tenant="alice")
    async with blobs.create("bob", MOST) as writer:
        await writer.write(bytes(2 * PAGE_BYTES))
        with pytest.raises(Busy) as refusal:
            await writer.write(b"x")
    assert refusal.value.code == "storage_full"


async def test_a_byte_takes_a_page_and_a_blob_an_entry(blobs: Blobs) -> None:
    for size, pages in ((0, 0), (1, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2)):
        blob = await store(blobs, bytes(size))
        assert await blobs.used_bytes() == ENTRY_BYTES + pages * PAGE_BYTES
        await blobs.delete(blob.id)


async def test_a_tenant_has_a_share_of_the_number(tmp_path: Path) -> None:
    """Files without content take next to no disk, and would take all places."""
    blobs = DiskBlobs(BlobLimits(MOST, number=4, number_of_one=2))
    blobs.use_folder(tmp_path)
    first = await store(blobs, b"", tenant="alice")
    async with blobs.create("alice", MOST) as writer:  # an unfinished one counts
        with pytest.raises(RateLimited, match="too many") as refusal:
            await store(blobs, b"", tenant="alice")
        assert refusal.value.code == "rate_limited"
        await store(blobs, b"", tenant="bob")
        await writer.write(b"x")
    await blobs.delete(first.id)
    for _ in range(2):
        await store(blobs, b"", tenant="alice")
    await store(blobs, b"", tenant="carol")
    with pytest.raises(Busy) as full:
        await store(blobs, b"", tenant="dave")
    assert full.value.code == "storage_full"
    await blobs.close()


async def test_nothing_is_looked_for_before_something_expires(tmp_path: Path) -> None:
    """A refusal must not look at each of 100,000 blobs."""
    now = 0.0
    blobs = DiskBlobs(BlobLimits(MOST, number=3), wall_clock=lambda: now)
    blobs.use_folder(tmp_path)
    looked: list[int] = []

    class Counted(dict[str, Any]):
        def values(self) -> Any:
            looked.append(len(self))
            return super().values()

    blobs._blobs = Counted()
    await store(blobs, keep_s=60.0)
    adopted = await store(blobs, keep_s=30.0)
    await store(blobs)
    blobs.adopt(adopted.id)
    for then, looks in ((29.0, 0), (59.0, 2), (59.5, 0)):
        now = then
        looked.clear()
        with pytest.raises(Busy):
            await store(blobs)
        assert len(looked) == looks
    now = 60.0
    await store(blobs)
    with pytest.raises(Busy):
        await store(blobs)
    await blobs.close()


async def test_the_number_of_blobs_is_limited(blobs: Blobs) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(blobs.create("", MOST))  # unfinished ones count
        await store(blobs, b"")
        with pytest.raises(Busy) as refusal:
            await store(blobs, b"")
    assert refusal.value.code == "storage_full"
    await store(blobs, b"")


# -- of the memory engine -----------------------------------------------------------------------


async def test_others_cannot_read_the_folder(disk: DiskBlobs, tmp_path: Path) -> None:
    blob = await store(disk)
    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o700
    await disk.delete(blob.id)


async def test_a_writer_that_is_cancelled_while_a_thread_writes(
    disk: DiskBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = os.write

    def slow_write(fd: int, data: bytes) -> int:
        begun.set()
        go_on.wait()
        return real(fd, data)

    async def upload() -> None:
        async with disk.create("", MOST) as writer:
            await writer.write(b"x")

    monkeypatch.setattr(os, "write", slow_write)
    task = asyncio.create_task(upload())
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    assert await disk.used_bytes() == ENTRY_BYTES + PAGE_BYTES  # it is still there
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await disk.used_bytes() == 0


async def test_a_full_disk(disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with disk.create("", MOST) as writer:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(Busy) as refusal:
            await writer.write(b"x")
    assert refusal.value.code == "storage_full"
    assert await disk.used_bytes() == 0


async def test_a_short_write_is_continued(disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    blob = await store(disk, b"0123456789")
    assert await content(disk, blob.id) == b"0123456789"
    await disk.delete(blob.id)


async def test_a_disk_that_hangs(disk: DiskBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    real = os.open

    def hang(*args: object, **how: object) -> int:
        go_on.wait()
        return real(*args, **how)  # type: ignore[arg-type]

    blob = await store(disk)
    monkeypatch.setattr("streamer.engine.diskcalls.CALL_S", 0.01)
    monkeypatch.setattr(os, "open", hang)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="does not answer"):
        await content(disk, blob.id)
    go_on.set()
    await disk.delete(blob.id)
    await disk.close()
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) == before  # what came too late is closed


# -- the projects of jobs -----------------------------------------------------------------------


def with_project(blob: Blob) -> ResolvedJob:
    return replace(make_job(), project=JobProject(blob.id, blob.bytes, 1))


async def test_a_job_keeps_its_project_until_it_is_over(bench: Bench, tmp_path: Path) -> None:
    engine = await bench.make()
    await engine.start(tmp_path)
    blob = await store(engine.blobs, keep_s=60.0)
    jobs = [with_project(blob) for _ in range(2)]
    for job in jobs:
        await engine.submit(job)
    await engine.submit(jobs[0])  # again: it is the same job
    await engine.blobs.delete(blob.id)
    await bench.pass_time(60.0)
    assert await engine.blobs.find(blob.id) is None
    lease = await claim_one(engine)
    assert await content(engine.blobs, blob.id) == b"x"
    await lease.finish([complete()])
    assert await content(engine.blobs, blob.id) == b"x"  # the second job waits for it
    await engine.cancel(jobs[1].job_id)
    with pytest.raises(NotFound):
        await content(engine.blobs, blob.id)
    await until_stored(engine.blobs, 0)


@pytest.mark.parametrize("expired", [False, True])
async def test_a_project_that_is_gone_before_its_job_comes(
    bench: Bench, tmp_path: Path, *, expired: bool
) -> None:
    engine = await bench.make()
    await engine.start(tmp_path)
    blob = await store(engine.blobs, keep_s=10.0)
    if expired:
        await bench.pass_time(10.0)
    else:
        await engine.blobs.delete(blob.id)
    with pytest.raises(InvalidJob) as refusal:
        await engine.submit(with_project(blob))
    assert (refusal.value.code, refusal.value.path) == ("unknown_project", "$.projectId")
    assert (await engine.stats()).waiting == 0


async def test_a_project_that_is_still_there_is_not_freed_by_its_jobs(
    bench: Bench, tmp_path: Path
) -> None:
    engine = await bench.make()
    await engine.start(tmp_path)
    blob = await store(engine.blobs)
    await engine.submit(with_project(blob))
    lease = await claim_one(engine)
    await lease.finish([complete()])
    assert await content(engine.blobs, blob.id) == b"x"

"""What holds for the files that jobs leave, in every engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from streamer.engine.blobs import JobFile
from streamer.engine.interface import Engine, LeaseLost
from streamer.errors import NotFound, UnknownJob
from tests.support import until_stored

from . import complete, events_of, output, start
from .conftest import Bench

KEEP_S = 60.0


@pytest.fixture
async def engine(bench: Bench, tmp_path: Path) -> Engine:
    engine = await bench.make()
    await engine.start(tmp_path)
    return engine


async def stored(engine: Engine, name: str, data: bytes = b"x", tenant: str = "a") -> JobFile:
    async with engine.blobs.create(tenant, 100, kind="artifact", keep_s=KEEP_S) as writer:
        await writer.write(data)
        return JobFile(name, await writer.commit(), 7)


async def left(engine: Engine, *files: JobFile) -> str:
    """Return the id of a finished job with these files."""
    lease = await start(engine, "a")
    assert await lease.finish([output("hello"), complete()], files)
    return lease.job.job_id


async def test_the_files_of_a_job(engine: Engine) -> None:
    files = [await stored(engine, "a.txt"), await stored(engine, "b/ä\n.txt", b"two")]
    job_id = await left(engine, *files)
    assert list(await engine.files(job_id)) == files
    assert [event.kind for event in await events_of(engine, job_id)][-2:] == ["output", "complete"]


async def test_a_job_without_files(engine: Engine) -> None:
    assert list(await engine.files(await left(engine))) == []
    lease = await start(engine, "a")
    assert list(await engine.files(lease.job.job_id)) == []
    with pytest.raises(UnknownJob):
        await engine.files("none")


async def test_files_are_kept_as_long_as_the_record(bench: Bench, engine: Engine) -> None:
    file = await stored(engine, "a")
    orphan = await stored(engine, "b")
    job_id = await left(engine, file)
    await bench.pass_time(KEEP_S + 1)
    await engine.reap()
    async with engine.blobs.open(file.blob.id):
        pass
    with pytest.raises(NotFound):
        async with engine.blobs.open(orphan.blob.id):
            pass
    assert await engine.purge(job_id)
    await until_stored(engine.blobs, 0)


async def test_files_expire_with_the_record(bench: Bench, tmp_path: Path) -> None:
    engine = await bench.make(retention_s=10.0)
    await engine.start(tmp_path)
    await left(engine, await stored(engine, "a"))
    await bench.pass_time(11)
    await engine.reap()
    await until_stored(engine.blobs, 0)


async def test_files_go_with_a_record_that_makes_room(bench: Bench, tmp_path: Path) -> None:
    engine = await bench.make(retention_bytes=20_000)
    await engine.start(tmp_path)
    first = await left(engine, await stored(engine, "a"))
    for _ in range(20):
        lease = await start(engine, "a")
        await lease.finish([output("x" * 4000), complete()])
    assert await engine.summary(first) is None
    await until_stored(engine.blobs, 0)


async def test_a_reader_of_a_deleted_file_has_it_to_the_end(engine: Engine) -> None:
    file = await stored(engine, "a")
    job_id = await left(engine, file)
    async with engine.blobs.open(file.blob.id):
        await engine.purge(job_id)
    await until_stored(engine.blobs, 0)


async def test_a_job_that_is_over_takes_no_files(bench: Bench, engine: Engine) -> None:
    lease = await start(engine, "a")
    await bench.pass_time(16)
    assert await engine.reap() == 1
    file = await stored(engine, "a")
    with contextlib.suppress(LeaseLost):
        assert not await lease.finish([complete()], [file])
    assert list(await engine.files(lease.job.job_id)) == []
    await bench.pass_time(KEEP_S + 1)
    await engine.reap()
    await until_stored(engine.blobs, 0)


async def test_names_of_files_count_as_memory(engine: Engine) -> None:
    file = await stored(engine, "x" * 1000)
    before = (await engine.stats()).record_bytes
    await left(engine, file)
    one = (await engine.stats()).record_bytes - before
    await left(engine)
    none = (await engine.stats()).record_bytes - before - one
    assert one - none > 1000

"""Uploads become stored projects, within bounds, and leave nothing when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streamer.config.projects import ProjectsConfig
from streamer.engine.limits import BlobLimits
from streamer.engine.memory.blobs import DiskBlobs
from streamer.errors import Busy, InvalidRequest, NotFound, RateLimited, TooLarge
from streamer.jobs import projects as module
from streamer.jobs.archives import read
from streamer.jobs.archives.entries import Source
from streamer.jobs.projects import Projects

from .archives import MIB, form_of, tar_of, zip_of


class Clock:
    now = 1000.0


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[DiskBlobs]:
    """Check that nothing is left but what was committed."""
    blobs = DiskBlobs(BlobLimits(64 * MIB, 32 * MIB, 20), wall_clock=lambda: Clock.now)
    blobs.use_folder(tmp_path)
    Clock.now = 1000.0
    yield blobs
    await blobs.close()


def make(blobs: DiskBlobs, **config: Any) -> Projects:
    return Projects(ProjectsConfig(**config), blobs)


async def sent(data: bytes, piece: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), piece):
        yield data[at : at + piece]


async def test_an_upload_can_be_found_and_deleted(blobs: DiskBlobs) -> None:
    projects = make(blobs, keep_s=60.0)
    archive = zip_of([("src/a.py", b"1"), ("b.py", b"23"), ("empty/", b"")])
    project = await projects.upload(sent(archive), tenant="alice")
    assert [(file.name, file.bytes) for file in project.contents.files] == [
        ("src/a.py", 1),
        ("b.py", 2),
    ]
    assert project.expires_at == 1060.0
    assert project.contents.entries == 4
    assert await projects.find(project.id, tenant="alice") == project
    # In another process nothing of it is in memory.
    assert await make(blobs).find(project.id, tenant="alice") == project
    await projects.delete(project.id, tenant="alice")
    with pytest.raises(NotFound):
        await projects.find(project.id, tenant="alice")
    assert await blobs.used_bytes() == 0


async def test_a_project_of_another_tenant_is_unknown(blobs: DiskBlobs) -> None:
    projects = make(blobs)
    project = await projects.upload(sent(tar_of([("a", b"1")])), tenant="alice")
    for method in (projects.find, projects.delete):
        with pytest.raises(NotFound, match=project.id):
            await method(project.id, tenant="bob")
        with pytest.raises(NotFound):
            await method(project.id)
    assert (await projects.find(project.id, tenant="alice")).id == project.id


async def test_a_blob_that_is_no_project_is_unknown(blobs: DiskBlobs) -> None:
    async with blobs.create("alice", 10, kind="artifact") as writer:
        blob = await writer.commit()
    with pytest.raises(NotFound):
        await make(blobs).find(blob.id, tenant="alice")


async def test_it_expires(blobs: DiskBlobs) -> None:
    projects = make(blobs, keep_s=60.0)
    project = await projects.upload(sent(tar_of([("a", b"1")])))
    Clock.now += 60.0
    with pytest.raises(NotFound):
        await projects.find(project.id)


async def test_what_a_killed_service_has_left_expires(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an engine that other services share, nobody else would know of it."""
    stored, create = [], blobs.create

    def seen(*args: Any, **how: Any) -> Any:
        stored.append(how)
        return create(*args, **how)

    monkeypatch.setattr(blobs, "create", seen)
    await make(blobs).upload(sent(zip_of([("a", b"1")])))
    assert [(how["kind"], how.get("keep_s") is not None) for how in stored] == [
        ("upload", True),
        ("project", True),
    ]


async def test_a_form(blobs: DiskBlobs) -> None:
    form = form_of([(b'filename="a/b"', b"1"), (b'filename="c"', b"2")])
    project = await make(blobs).upload(sent(form), boundary=b"xyz")
    assert [file.name for file in project.contents.files] == ["a/b", "c"]


async def test_an_upload_that_is_too_large_is_not_received_further(blobs: DiskBlobs) -> None:
    received = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal received
        while True:
            received += 1000
            yield bytes(1000)

    with pytest.raises(TooLarge, match="max_upload_bytes"):
        await make(blobs, max_upload_bytes=50_000).upload(endless())
    assert received == 51_000
    assert await blobs.used_bytes() == 0


async def test_an_upload_as_large_as_one_may_be(blobs: DiskBlobs) -> None:
    archive = tar_of([("a", b"1")])
    assert (await make(blobs, max_upload_bytes=len(archive)).upload(sent(archive))).id
    with pytest.raises(TooLarge):
        await make(blobs, max_upload_bytes=len(archive) - 1).upload(sent(archive))


@pytest.mark.parametrize(
    ("upload", "kind"),
    [
        (b"nonsense", InvalidRequest),
        (zip_of([("../x", b"")]), InvalidRequest),
        (zip_of([("a", bytes(3 * MIB))]), TooLarge),
        (tar_of([(str(n), b"") for n in range(11)]), TooLarge),
    ],
)
async def test_what_is_refused_leaves_nothing(
    blobs: DiskBlobs, tmp_path: Path, upload: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        await make(blobs, max_files=10, max_bytes=2 * MIB, max_ratio=10_000).upload(sent(upload))
    assert await blobs.used_bytes() == 0
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_nothing_of_what_is_refused_waits_for_the_garbage_collector(
    blobs: DiskBlobs,
) -> None:
    projects = make(blobs)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(InvalidRequest):  # `pytest.raises` would keep it
            await projects.upload(sent(tar_of([("a", b"1"), ("../b", b"2")])))
            raise AssertionError("it was not refused")
        async with asyncio.timeout(10):  # the thread may not be quite at its end
            while any(isinstance(one, Source) for one in gc.get_objects()):
                await asyncio.sleep(0)
    finally:
        gc.enable()


async def test_a_share_of_the_disk_that_is_used_up(blobs: DiskBlobs) -> None:
    """The refusal of a blob comes out of the thread that fills it."""
    projects = make(blobs, max_ratio=10_000)
    with pytest.raises(RateLimited):
        await projects.upload(sent(zip_of([("a", bytes(40 * MIB))])), tenant="alice")
    assert await blobs.used_bytes() == 0


async def test_uploads_at_the_same_time(blobs: DiskBlobs) -> None:
    projects = make(blobs, max_uploads=3)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await go_on.wait()
        yield tar_of([("a", b"1")])

    def begin(tenant: str) -> asyncio.Task[object]:
        return asyncio.create_task(projects.upload(slow(), tenant=tenant))

    tasks = [begin("alice"), begin("alice")]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited, match="max_uploads"):
        await begin("alice")
    tasks.append(begin("bob"))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="max_uploads"):
        await begin("carol")
    go_on.set()
    await asyncio.gather(*tasks)
    await projects.upload(sent(tar_of([("a", b"1")])), tenant="alice")


async def test_an_upload_that_is_cancelled_while_it_is_read(
    blobs: DiskBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    ended: list[BaseException] = []
    real = read.store_project

    def slow(source: Any, *rest: Any) -> Any:
        begun.set()
        try:
            while True:
                source.go_on()
        except BaseException as error:
            ended.append(error)
            raise
        return real(source, *rest)

    monkeypatch.setattr(module, "store_project", slow)
    task = asyncio.create_task(make(blobs).upload(sent(tar_of([("a", b"1")]))))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # more than once
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [type(error).__name__ for error in ended] == ["Interrupted"]
    assert await blobs.used_bytes() == 0
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_a_tenant_has_one_archive_read_at_a_time(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archives that take long do not keep those of others waiting, nor jobs with a project."""
    go_on = threading.Event()
    begun: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    real = read.store_project
    hostile = tar_of([("hostile", b"1")])

    def slow(source: Any, *rest: Any) -> Any:
        if source.pread(7, 0) == b"hostile":
            loop.call_soon_threadsafe(begun.put_nowait, None)
            assert go_on.wait(60)
        return real(source, *rest)

    projects = make(blobs)
    known = await projects.upload(sent(tar_of([("a", b"1")])), tenant="bob")
    monkeypatch.setattr(module, "store_project", slow)
    uploads = [
        asyncio.create_task(projects.upload(sent(hostile), tenant="alice")) for _ in range(3)
    ]
    await begun.get()
    project = await projects.upload(sent(tar_of([("a", b"1")])), tenant="bob")
    assert project.contents.files[0].name == "a"
    uploads += [asyncio.create_task(projects.upload(sent(hostile), tenant="carol"))]
    await begun.get()  # both threads are taken
    projects._forget(known.id)
    assert await projects.find(known.id, tenant="bob") == known
    waiting = asyncio.create_task(projects.upload(sent(hostile), tenant="dave"))
    while not module.THREADS._work_queue.qsize():
        await asyncio.sleep(0)
    waiting.cancel()  # it ends though no thread is free
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await asyncio.gather(*uploads)
    assert begun.qsize() == 2
    assert not projects._turns


async def test_an_archive_that_takes_too_long(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(source: Any, *_: Any) -> Any:
        while True:
            source.go_on()

    monkeypatch.setattr(module, "store_project", endless)
    monkeypatch.setattr(module, "READ_S", 0.1)
    with pytest.raises(InvalidRequest, match=r"within 0\.1 s"):
        await make(blobs).upload(sent(tar_of([("a", b"1")])))
    assert await blobs.used_bytes() == 0


async def test_lists_are_kept_within_bounds(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CACHED", 3 * (module.ENTRY_BYTES + 1))
    projects = make(blobs)
    kept = [await projects.upload(sent(tar_of([("a", b"1")]))) for _ in range(5)]
    assert len(projects._listed) == 3
    for project in kept:
        assert await projects.find(project.id) == project
    large = await projects.upload(sent(tar_of([(str(n), b"") for n in range(5)])))
    assert large.id not in projects._listed
    for project in (*kept, large):
        await projects.delete(project.id)
    assert (projects._listed_bytes, len(projects._listed)) == (0, 0)


@pytest.mark.parametrize("last", ["_contents", "delete"])
async def test_an_upload_that_is_cancelled_when_it_is_stored_leaves_nothing(
    blobs: DiskBlobs, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Nobody would know of the project."""
    projects = make(blobs)
    begun = asyncio.Event()
    real = getattr(projects if last == "_contents" else blobs, last)

    async def slow(*given: Any) -> Any:
        done = await real(*given)
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return done

    monkeypatch.setattr(projects if last == "_contents" else blobs, last, slow)
    task = asyncio.create_task(projects.upload(sent(tar_of([("a", b"1")]))))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await blobs.used_bytes() == 0

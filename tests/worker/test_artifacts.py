"""Files that jobs leave: what is kept of a hostile workspace, and what is told."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.engine.blobs import Blobs
from streamer.errors import InvalidJob
from streamer.jobs.job import Job
from streamer.model.events import Artifact, Error, encode
from streamer.model.job import JobSpec
from streamer.worker.execution import Execution
from tests.conftest import OpenService
from tests.running import Ran, ended, program
from tests.support import until_stored

from .test_engine_faults import Faulty as FaultyLease
from .test_engine_faults import make_faulty

Need = Callable[[str], str]

LIMITS = {"wall_time_s": 30.0}


def shell(script: str, *artifacts: str, **more: Any) -> JobSpec:
    return JobSpec(command=("sh", "-c", script), artifacts=artifacts, limits=LIMITS, **more)


def python(source: str, *artifacts: str, **more: Any) -> JobSpec:
    return JobSpec(**{**program(source), "limits": LIMITS, **more}, artifacts=artifacts)


async def run(service: Parts, spec: JobSpec) -> tuple[Job, Ran]:
    job = await service.jobs.submit(spec, tenant="alice")
    return job, await ended(job)


async def contents(job: Job) -> dict[str, bytes]:
    """Return the files of a job, each checked against what is said of it."""
    found = {}
    for file in await job.files():
        async with job.open_file(file) as fd:
            data = os.pread(fd, 2**26, 0)
        assert (file.blob.bytes, file.crc32) == (len(data), zlib.crc32(data))
        assert file.blob.sha256 == hashlib.sha256(data).hexdigest()
        found[file.name] = data
    return found


def failed(ran: Ran) -> set[tuple[str, str | None]]:
    """Return the reasons and names of what was not kept."""
    return {(one.reason, one.name or one.glob) for one in ran.complete.artifacts_failed}


async def test_files_are_kept_and_told_before_the_end(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend)
    script = "mkdir -p out/deep; echo one > out/a.txt; printf two > out/deep/b.txt; echo no > c.txt"
    job, ran = await run(service, shell(script, "out/**/*.txt"))
    assert ran.verdict == "exited 0"
    assert await contents(job) == {"out/a.txt": b"one\n", "out/deep/b.txt": b"two"}
    assert ran.complete.artifacts_failed == ()
    told = [event.data for event in ran.events if isinstance(event.data, Artifact)]
    address = f"/api/jobs/{job.id}/files/"
    assert told == [
        Artifact(file.name, file.blob.bytes, file.blob.sha256, address + file.name)
        for file in await job.files()
    ]
    assert [event.kind for event in ran.events[-3:]] == ["artifact", "artifact", "complete"]
    used = await service.engine.blobs.used_by("alice")
    assert used == await service.engine.blobs.used_bytes() > 0
    assert await job.purge()
    await until_stored(service.engine.blobs, 0)


HOSTILE = r"""
import os, socket
os.makedirs("out/folder.txt")
open("out/good.txt", "w").write("good")
os.symlink("/etc/passwd", "out/link.txt")
os.symlink("good.txt", "out/near.txt")
os.symlink("out", "way")
os.mkfifo("out/pipe.txt")
s = socket.socket(socket.AF_UNIX); s.bind("out/socket.txt")
os.link("out/good.txt", "out/twin.txt")
open("out/secret.txt", "w").write("x"); os.chmod("out/secret.txt", 0)
open(b"out/\xff.txt", "w").write("x")
open("out/back\\slash.txt", "w").write("x")
open("out/new\nline.txt", "w").write("n")
open("out/\u00e9\u65e5.txt", "w").write("u")
open("out/.hidden.txt", "w").write("h")
open("out/empty.txt", "w").close()
"""


async def test_only_regular_files_of_the_workspace(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    job, ran = await run(service, python(HOSTILE, "out/*.txt", "way/good.txt", "out/link.txt"))
    assert ran.verdict == "exited 0", ran.events
    assert await contents(job) == {
        "out/good.txt": b"good",
        "out/twin.txt": b"good",
        "out/new\nline.txt": b"n",
        "out/\u00e9\u65e5.txt": b"u",
        "out/empty.txt": b"",
    }
    assert failed(ran) == {
        ("not_a_file", "out/link.txt"),
        ("not_a_file", "out/near.txt"),
        ("not_a_file", "out/pipe.txt"),
        ("not_a_file", "out/socket.txt"),
        ("not_a_file", "way/good.txt"),
        ("unreadable", "out/secret.txt"),
        ("bad_name", "out/\ufffd.txt"),
        ("bad_name", "out/back\\slash.txt"),
    }
    # Each once, though two patterns stand for it.
    assert len(ran.complete.artifacts_failed) == len(failed(ran))


@pytest.mark.parametrize(
    ("script", "limits", "verdict"),
    [
        ("exit 3", {}, "exited 3"),
        ("kill -SEGV $$", {}, "signaled SIGSEGV"),
        ("sleep 600", {"wall_time_s": 0.5}, "wall_time SIGTERM"),
        ("yes", {"output_bytes": 100_000}, "output_limit SIGKILL"),
        ("sleep 600 & exit 0", {}, "exited 0"),
    ],
)
async def test_whatever_the_verdict(
    open_service: OpenService, backend: str, script: str, limits: dict[str, float], verdict: str
) -> None:
    service = await open_service(backend)
    spec = replace(shell(f"echo x > a; {script}", "a"), limits={**LIMITS, **limits})
    job, ran = await run(service, spec)
    assert ran.verdict == verdict
    assert await contents(job) == {"a": b"x\n"}


async def test_a_cancelled_job_has_its_files(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    job = await service.jobs.submit(shell("echo x > a; echo up; sleep 600", "a"))
    async for event in job.events():
        if event.kind == "output":
            await job.cancel()
    assert await contents(job) == {"a": b"x\n"}


async def test_where_nothing_of_the_sandbox_is_left_that_is_told(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend)
    source = """
        open("a", "w").write("x")
        kept = []
        while True: kept.append(b"x" * 4_000_000)
    """
    spec = replace(python(source, "a", "*.txt"), limits={**LIMITS, "memory_bytes": 2**26})
    job, ran = await run(service, spec)
    assert ran.complete.reason == "memory"
    if failed(ran) == {("no_match", "*.txt")}:  # version 1 of control groups, or none
        assert await contents(job) == {"a": b"x"}
    else:
        assert failed(ran) == {("sandbox_gone", "a"), ("sandbox_gone", "*.txt")}
        assert await contents(job) == {}


async def test_what_a_compiler_leaves(open_service: OpenService, need: Need) -> None:
    service = await open_service(need("bwrap"))
    spec = JobSpec(language="c", code="int main(void) { return 0 }", artifacts=("main.*",))
    job, ran = await run(service, spec)
    assert ran.complete.phase == "compile"
    assert await contents(job) == {"main.c": b"int main(void) { return 0 }"}


async def test_bounds_of_number_and_size(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend, artifacts={"max_files": 3, "max_bytes": 1000})
    script = """
        for n in 1 2 3 4 5; do echo $n > b$n; done
        head -c 600 /dev/zero > a1; head -c 600 /dev/zero > a2; head -c 1001 /dev/zero > a0
    """
    job, ran = await run(service, shell(script, "a*", "b?", "b1"))
    assert await contents(job) == {"a1": bytes(600)}
    too_many = {("too_many_files", "b?"), ("too_many_files", "b1")}
    assert failed(ran) == {("too_large", "a0"), ("too_large", "a2"), *too_many}
    job, ran = await run(service, shell(script, "b*"))
    assert await contents(job) == {f"b{n}": b"%d\n" % n for n in (1, 2, 3)}
    assert failed(ran) == {("too_many_files", "b*")}


async def test_a_sparse_file_is_as_large_as_it_says(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend, artifacts={"max_bytes": 2**20})
    script = "truncate -s 60M huge; truncate -s 1M large; truncate -s 1 small"
    job, ran = await run(service, shell(script, "huge", "large", "small"))
    assert await contents(job) == {"large": bytes(2**20)}
    assert failed(ran) == {("too_large", "huge"), ("too_large", "small")}


@pytest.mark.slow
async def test_a_hundred_thousand_files(open_service: OpenService, backend: str) -> None:
    """What is named is found all the same; a search is not complete, and has its bounds."""
    service = await open_service(backend)
    source = """
        import os
        os.makedirs("d/e")
        for number in range(100_000):
            try:
                os.close(os.open(f"d/{number}", os.O_CREAT | os.O_WRONLY))
            except OSError:
                break
        open("d/e/wanted", "w").write("x")
    """
    limits = {**LIMITS, "disk_bytes": 2**30, "cpu_time_s": 60.0}
    job, ran = await run(service, replace(python(source, "d/e/wanted", "d/*"), limits=limits))
    assert ran.verdict == "exited 0", ran.events
    kept = await contents(job)
    assert (len(kept), kept["d/e/wanted"]) == (100, b"x")
    assert failed(ran) == {("too_many_files", "d/*"), ("search_incomplete", "d/*")}


async def test_only_some_failures_are_told(open_service: OpenService, need: Need) -> None:
    service = await open_service(need("plain"))
    job, ran = await run(service, shell("for n in $(seq 40); do ln -s x $n; done", "*"))
    assert await contents(job) == {}
    assert len(ran.complete.artifacts_failed) == 20


async def test_storage_that_is_full_is_told(open_service: OpenService, need: Need) -> None:
    engine = {"blob_bytes": 40 * 4096}
    service = await open_service(need("plain"), engine=engine)
    script = "head -c 200000 /dev/zero > big; echo x > small"
    job, ran = await run(service, shell(script, "*"))
    assert ran.verdict == "exited 0"
    assert (await contents(job), failed(ran)) == ({"small": b"x\n"}, {("storage_full", "big")})
    assert await job.purge()
    await until_stored(service.engine.blobs, 0)


async def test_a_service_that_keeps_no_files(open_service: OpenService, need: Need) -> None:
    service = await open_service(need("plain"), artifacts={"max_files": 0})
    with pytest.raises(InvalidJob, match=r"artifacts\.max_files") as refused:
        await service.jobs.submit(shell("true", "a"))
    assert refused.value.path == "$.artifacts"


class Faulty:
    """Blobs whose writers do something else at the first write."""

    def __init__(self, blobs: Blobs, at_write: Callable[[], Awaitable[object]]) -> None:
        self._blobs = blobs
        self._at_write = at_write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    @asynccontextmanager
    async def create(self, *args: Any, **how: Any) -> AsyncIterator[Any]:
        async with self._blobs.create(*args, **how) as writer:
            yield SimpleNamespace(write=self._write, commit=writer.commit)

    async def _write(self, _: bytes) -> None:
        await self._at_write()


def broken(service: Parts, at_write: Callable[[], Awaitable[object]]) -> None:
    """Let the blobs of the worker be faulty."""
    settings = service.worker._settings
    blobs: Any = Faulty(service.engine.blobs, at_write)
    service.worker._settings = replace(settings, blobs=blobs)


async def hang() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise OSError("the disk is broken")


async def test_a_collection_has_a_time_limit(open_service: OpenService, need: Need) -> None:
    service = await open_service(need("bwrap"), artifacts={"timeout_s": 0.3})
    broken(service, hang)
    job, ran = await run(service, shell("echo x > a; echo y > b", "a", "b"))
    assert ran.verdict == "exited 0"
    assert (await contents(job), failed(ran)) == ({}, {("timeout", "a"), ("timeout", "b")})
    await until_stored(service.engine.blobs, 0)


async def test_a_disk_that_fails_does_not_change_the_verdict(
    open_service: OpenService, need: Need
) -> None:
    service = await open_service(need("bwrap"))
    broken(service, fail)
    job, ran = await run(service, shell("echo x > a; : > b", "a", "b"))
    assert ran.verdict == "exited 0"
    assert (await contents(job), failed(ran)) == ({"b": b""}, {("internal", "a")})


async def test_a_cancellation_does_not_interrupt_a_collection(
    open_service: OpenService, need: Need
) -> None:
    service = await open_service(need("bwrap"))
    jobs: list[Job] = []
    cancelled = asyncio.Event()

    async def cancel() -> None:
        await jobs[0].cancel()
        (execution,) = service.worker._running.values()
        await execution._stop.requested
        cancelled.set()

    broken(service, cancel)
    jobs.append(await service.jobs.submit(shell("echo x > a; : > b", "a", "b")))
    ran = await ended(jobs[0])
    assert cancelled.is_set()
    assert ran.verdict == "exited 0"
    assert [file.name for file in await jobs[0].files()] == ["a", "b"]


async def test_a_service_that_stops_does_not_wait_for_a_collection(
    open_service: OpenService, need: Need
) -> None:
    service = await open_service(need("bwrap"))
    writing = asyncio.Event()

    async def wait() -> None:
        writing.set()
        await hang()

    broken(service, wait)
    job = await service.jobs.submit(shell("echo x > a", "a"))
    await asyncio.wait_for(writing.wait(), 30)
    await service.drain(0)
    ran = await ended(job)
    assert (ran.verdict, failed(ran)) == ("exited 0", {("timeout", "a")})


async def test_files_of_a_lost_job_are_deleted(open_service: OpenService, need: Need) -> None:
    service = await open_service(need("bwrap"))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    engine: Any = service.engine

    async def lose() -> None:
        if begun:
            record = engine._table.get(begun[-1].lease.job.job_id)
            engine._table.end(record, [encode(Error("worker_lost", "gone"))])

    broken(service, lose)
    job, ran = await run(service, shell("echo x > a; : > b", "a", "b"))
    assert ran.verdict == "error worker_lost"
    await asyncio.wait_for(begun[-1].over.wait(), 30)
    assert await contents(job) == {}
    await until_stored(service.engine.blobs, 0)


class Unheard(FaultyLease):
    """A lease that ends a job, and whose answers are lost."""

    async def finish(self, *arguments: Any) -> object:
        await self._lease.finish(*arguments)
        raise ConnectionError("the engine is away")


async def test_files_that_a_job_may_have_got_are_not_deleted(
    open_service: OpenService, need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.worker.writer.FINISH_PAUSES_S", (0.0,))
    service = await open_service(need("bwrap"))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    make_faulty(service, monkeypatch, lambda lease: Unheard(lease, {}))
    await run(service, shell("true"))  # the claim that was under way
    job, ran = await run(service, shell("echo x > a", "a"))
    assert ran.verdict == "exited 0"
    await asyncio.wait_for(begun[-1].over.wait(), 30)
    assert await contents(job) == {"a": b"x\n"}


async def test_an_end_that_the_worker_did_not_wait_for_has_its_files(
    open_service: OpenService, need: Need, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.worker.writer.ENGINE_TIMEOUT_S", 0.2)
    service = await open_service(need("bwrap"))
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    engine: Any = service.engine
    enforce, hanging = engine._retention.enforce, [hang]

    async def slow(record: Any) -> None:
        """Make room on a disk that does not answer at first, when the job is over."""
        if record.over and hanging:
            await hanging.pop()()
        await enforce(record)

    monkeypatch.setattr(engine._retention, "enforce", slow)
    job, ran = await run(service, shell("echo x > a", "a"))
    assert ran.verdict == "exited 0"
    await asyncio.wait_for(begun[-1].over.wait(), 30)
    assert not hanging
    assert await contents(job) == {"a": b"x\n"}

"""A search for files while a program changes them: what a job's own search must never meet."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from streamer.config.artifacts import ArtifactsConfig
from streamer.engine.blobs import Blobs
from streamer.engine.limits import BlobLimits
from streamer.engine.memory.blobs import DiskBlobs
from streamer.model import globs
from streamer.model.globs import Glob
from streamer.model.job import SourceFile
from streamer.sandbox.listing import Entry, Listing
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run, Shape
from streamer.sandbox.stdio import Stdio
from streamer.worker import matching as module
from streamer.worker.artifacts import Collected, Collection
from streamer.worker.matching import Matching
from streamer.worker.stop import Stop
from tests.sandbox import test_sandbox
from tests.sandbox.test_sandbox import LIMITS, until_written

need = test_sandbox.need
backend = test_sandbox.backend
pool = test_sandbox.pool
sandbox = test_sandbox.sandbox

SECRET = b"outside"


async def test_patterns_are_matched_in_turns(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a job long to match does not cost others their files."""
    turns: list[object] = []
    go_on = Matching.go_on

    def counted(matching: Matching) -> bool:
        turns.append(matching)
        return go_on(matching)

    monkeypatch.setattr(Matching, "go_on", counted)
    monkeypatch.setattr(module, "TURN_S", 0.0)
    entries = [Entry(f"out/{name}", stat.S_IFREG, 1) for name in "edcab"]

    class Listed:
        async def list_files(self) -> Listing:
            return Listing([Entry("out", stat.S_IFDIR, 0), *entries], complete=True)

    searches = [
        Collection(cast("Any", Listed()), blobs, "", ArtifactsConfig(), Collected())
        for _ in range(3)
    ]
    patterns = [Glob("out/[a-c]"), Glob("name"), Glob("**")]
    found = await asyncio.gather(*(search._found(patterns) for search in searches))
    names = ["out/a", "out/b", "out/c", "name", "out/d", "out/e"]
    assert found == [names] * 3
    assert len(turns) == 3 * (2 * len(entries) + 2)
    assert max(len([*same]) for _, same in itertools.groupby(turns)) < 2 * len(entries) + 1


async def test_patterns_are_compiled_beside_the_loop(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 KiB of classes with characters of all planes take a second."""
    threads: set[int] = set()
    compiled = globs._matcher

    def seen(part: str) -> globs.Matches:
        threads.add(threading.get_ident())
        return compiled(part)

    monkeypatch.setattr(globs, "_matcher", seen)

    class Listed:
        async def list_files(self) -> Listing:
            return Listing([Entry("zz", stat.S_IFREG, 1)], complete=True)

    collected = Collected()
    search = Collection(cast("Any", Listed()), blobs, "", ArtifactsConfig(), collected)
    await search.run(("[b-\U0001f600]", "**/[c\u1234]*"), Stop())
    assert [failure.reason for failure in collected.failed] == ["no_match"] * 2
    assert threads
    assert threading.get_ident() not in threads


SWAPPING = """
import os, sys, threading
out = sys.argv[1]
os.mkdir("real"); os.mkdir("away")
open("real/inner", "w").write("inside")
def make_file(path): open(path, "w").write("inside")
def make_link(path): os.symlink(out, path)
def make_near(path): os.symlink("real/inner", path)
def make_pipe(path): os.mkfifo(path)
def make_gone(path): pass
MAKE = [make_file, make_link, make_near, make_pipe, make_gone]
def swap(number):
    path = f"swap{number}"
    while True:
        for make in MAKE:
            spare = f".spare{number}"
            make(spare)
            try:
                os.rename(spare, path)
            except OSError:
                try: os.remove(path)
                except OSError: pass
def swap_folder():
    os.symlink(os.path.dirname(out), ".link"); os.mkdir(".folder")
    open(".folder/inner", "w").write("inside")
    while True:
        for name in (".folder", ".link"):
            os.rename(name, "folder"); os.rename("folder", name)
def grow():
    with open("growing", "ab", buffering=0) as file:
        while True:
            try:
                file.write(b"g" * 4096)
                if file.tell() > 2**22: file.truncate(0); file.seek(0)
            except OSError:
                pass
for work in [*(lambda n=n: swap(n) for n in range(3)), swap_folder, grow]:
    threading.Thread(target=work, daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[Blobs]:
    blobs = DiskBlobs(BlobLimits(2**30))
    (tmp_path / "engine").mkdir()
    blobs.use_folder(tmp_path / "engine")
    yield blobs
    await blobs.close()


async def collected(sandbox: Sandbox, blobs: Blobs, *patterns: str) -> Collected:
    kept = Collected()
    await Collection(sandbox, blobs, "", ArtifactsConfig(timeout_s=30.0), kept).run(
        patterns, Stop()
    )
    return kept


async def content(blobs: Blobs, blob_id: str) -> bytes:
    async with blobs.open(blob_id) as fd:
        return os.pread(fd, 2**25, 0)


@pytest.mark.slow
async def test_nothing_is_kept_of_what_is_swapped_meanwhile(
    sandbox: Sandbox, blobs: Blobs, tmp_path: Path
) -> None:
    """Links, pipes and growing files come into the place of files while these are searched for."""
    secret = tmp_path / "inner"
    secret.write_bytes(SECRET)
    secret.chmod(0o644)
    await sandbox.put_files((SourceFile("swap.py", SWAPPING.encode()),), LIMITS)
    stdio = Stdio.pipes()
    env = {"PATH": "/usr/bin:/bin"}
    running = await sandbox.run(Run(("python3", "swap.py", str(secret)), env, LIMITS, stdio))
    assert await until_written(stdio) == b"up\n"
    names = set()
    for _ in range(60):
        found = await collected(
            sandbox, blobs, "swap?", "swap0", "folder/inner", "**/inner", "growing"
        )
        for file in found.files:
            data = await content(blobs, file.blob.id)
            names.add(file.name)
            if file.name == "growing":
                assert re.fullmatch(rb"[g\0]*", data)
                assert len(data) <= 2**22 + 4096
            else:
                assert data in (b"inside", b""), file.name
            await blobs.delete(file.blob.id)
        reasons = {failure.reason for failure in found.failed}
        assert reasons <= {"no_match", "not_a_file", "unreadable", "too_many_files"}, reasons
    assert {"real/inner", "growing"} <= names
    assert names & {"swap0", "swap1", "swap2"}
    await sandbox.kill()
    await running.ended
    stdio.close()


@pytest.mark.parametrize("change", ["grows", "shrinks"])
async def test_a_file_that_changes_once_it_is_open(
    sandbox: Sandbox, blobs: Blobs, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It is read no further than it was then."""
    monkeypatch.setattr("streamer.worker.artifacts.PIECE_BYTES", 3)
    await sandbox.put_files((SourceFile("a", b"12345"),), LIMITS)
    inner = await sandbox.open_path("a", os.O_WRONLY)
    creating = blobs.create

    def create(*args: Any, **how: Any) -> Any:
        os.ftruncate(inner, 4 if change == "shrinks" else 9)
        return creating(*args, **how)

    monkeypatch.setattr(blobs, "create", create)
    (file,) = (await collected(sandbox, blobs, "a")).files
    os.close(inner)
    kept = b"1234" if change == "shrinks" else b"12345"
    assert (file.blob.bytes, await content(blobs, file.blob.id)) == (len(kept), kept)


async def test_a_workspace_that_cannot_be_read(sandbox: Sandbox, blobs: Blobs) -> None:
    await sandbox.put_files((SourceFile("a", b"x"),), LIMITS)
    assert await test_sandbox.told(sandbox, "chmod 0 .") == (0, "")
    found = await collected(sandbox, blobs, "*", "a")
    assert [failure.reason for failure in found.failed] == ["unreadable", "unreadable"]
    assert found.files == []


async def test_a_sandbox_that_has_ended(
    pool: Pool, need: Callable[[str], str], blobs: Blobs
) -> None:
    sandbox = await pool.lend(Shape(need("plain"), LIMITS))
    await sandbox.close()
    found = await collected(sandbox, blobs, "*", "a")
    assert {failure.reason for failure in found.failed} == {"sandbox_gone"}
    await pool.close()


async def test_without_our_init_that_is_told(
    pool: Pool, need: Callable[[str], str], blobs: Blobs
) -> None:
    sandbox = await pool.lend(Shape("direct", LIMITS))
    found = await collected(sandbox, blobs, "*", "a")
    assert {failure.reason for failure in found.failed} == {"sandbox_gone"}
    await sandbox.close()
    await pool.close()


async def test_files_that_no_job_gets_expire(sandbox: Sandbox, blobs: Blobs) -> None:
    await sandbox.put_files((SourceFile("a", b"x"),), LIMITS)
    (file,) = (await collected(sandbox, blobs, "a")).files
    facts = await blobs.find(file.blob.id)
    assert facts is not None
    assert facts.kind == "artifact"
    assert facts.expires_at == pytest.approx(facts.created_at + 3600)


async def test_a_file_is_closed_only_when_no_thread_reads_it(
    sandbox: Sandbox, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number would soon be that of another file, which the thread would read."""
    reading: list[int] = []
    go_on = threading.Event()

    def slow(fd: int, most: int, crc32: int) -> tuple[bytes, int]:
        reading.append(fd)
        go_on.wait()
        return os.read(fd, most), crc32

    monkeypatch.setattr("streamer.worker.artifacts._read", slow)
    await sandbox.put_files((SourceFile("a", b"x"),), LIMITS)
    kept = Collected()
    bounds = ArtifactsConfig(timeout_s=0.2)
    try:
        await Collection(sandbox, blobs, "", bounds, kept).run(["a"], Stop())
        assert [failure.reason for failure in kept.failed] == ["timeout"]
        inode = os.fstat(reading[0]).st_ino
    finally:
        go_on.set()
    fd = await sandbox.open_path("a", os.O_RDONLY)
    assert os.fstat(fd).st_ino == inode
    os.close(fd)
    while descriptor_is_open(reading[0], inode):
        await asyncio.sleep(0)


def descriptor_is_open(fd: int, inode: int) -> bool:
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False

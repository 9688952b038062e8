"""What compilers have made is kept for the next job with the same program, of the same tenant."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.model.events import Output, Status
from streamer.model.job import (
    Case,
    JobProject,
    JobSpec,
    Limits,
    Phase,
    ResolvedJob,
    SourceFile,
    Step,
)
from streamer.model.runtime import Runtime
from streamer.model.session import SessionSpec
from streamer.worker import build, compilation
from streamer.worker.compilation import Compilation
from streamer.worker.compilecache import ENTRY_BYTES, CompileCache, Compiled
from streamer.worker.verdict import JobEnd
from tests.conftest import OpenService
from tests.running import Ran, ended
from tests.support import until_stored

MADE: Final = Runtime(
    name="made",
    entry="make.sh",
    compile=("sh", "make.sh"),
    run=("sh", "./program"),
    env={"MEMORY": "{memory_mb}"},
)
MAKE: Final = "echo compiling; echo 'cat; echo $0 $*' > program; date +%N > when"
"""A compilation that can be told from any other."""


async def opened(open_service: OpenService, backend: str = "bwrap", **sections: Any) -> Parts:
    return await open_service(backend, runtimes=[MADE, replace(MADE, name="other")], **sections)


def states(ran: Ran) -> list[str]:
    return [event.data.state for event in ran.events if isinstance(event.data, Status)]


async def made(service: Parts, tenant: str = "", **fields: Any) -> Ran:
    spec = {"language": "made", "code": MAKE, **fields}
    return await ended(await service.jobs.submit(JobSpec(**spec), tenant=tenant))


async def test_the_second_job_with_a_program_does_not_compile_it(
    isolating_backend: str, open_service: OpenService
) -> None:
    service = await opened(open_service, isolating_backend)
    first = await made(service, stdin=b"1")
    second = await made(service, stdin=b"2", args=("x",))
    assert states(first) == ["queued", "preparing", "compiling", "running"]
    assert states(second) == ["queued", "preparing", "running"]
    assert (first.complete.cached, second.complete.cached) == (False, True)
    assert (first.out, second.out) == ("compiling\n1./program\n", "compiling\n2./program x\n")
    assert first.complete.output_bytes == second.complete.output_bytes - 2
    assert (second.complete.reason, second.complete.phase) == ("exited", "run")
    times = [event.data.t for event in second.events if isinstance(event.data, Output)]
    assert times == sorted(times)


async def test_a_job_of_a_session_compiles_for_itself_only(open_service: OpenService) -> None:
    service = await opened(open_service)
    assert not (await made(service)).complete.cached
    session = (await service.jobs.sessions.open(SessionSpec())).session.session_id
    for _ in range(2):
        assert not (await made(service, session_id=session)).complete.cached
    code = MAKE + "; echo other"
    assert not (await made(service, session_id=session, code=code)).complete.cached
    assert not (await made(service, code=code)).complete.cached


async def test_cases_use_it_too(open_service: OpenService) -> None:
    service = await opened(open_service)
    cases = (Case(stdin=b"1"), Case(stdin=b"2"))
    first = await made(service, cases=cases)
    second = await made(service, cases=cases, limits={"wall_time_s": 5})
    third = await made(service)
    assert [ran.complete.cached for ran in (first, second, third)] == [False, True, True]
    assert second.text() == "compiling\n1./program\n2./program\n"


async def test_how_cases_are_confined_is_told_with_the_first_program_that_runs(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    pool = service.worker.pool
    assert pool is not None
    async with asyncio.timeout(60):
        while pool.templates.why_not("bwrap"):
            await asyncio.sleep(0.01)
    policies = []
    for cached in (False, True):
        job = await service.jobs.submit(JobSpec(language="made", code=MAKE, cases=(Case(),)))
        assert (await ended(job)).complete.cached == cached
        policies.append((await job.view()).job.policy)
    assert policies[0] == policies[1]


@pytest.mark.parametrize(
    "other",
    [
        {"code": MAKE + " "},
        {"files": (SourceFile("more", b""),)},
        {"env": {"A": "b"}},
        {"language": "other"},
        {"tenant": "bob"},
        {"output_encoding": "base64"},
        {"limits": {"output_bytes": 1000}},
        {"limits": {"memory_bytes": 100 * 2**20}},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_what_could_make_another_program_is_another(
    open_service: OpenService, other: dict[str, Any]
) -> None:
    service = await opened(open_service)
    await made(service, tenant="alice")
    ran = await made(service, **{"tenant": "alice", **other})
    assert not ran.complete.cached
    assert (await made(service, tenant="alice")).complete.cached


async def test_files_are_told_from_each_other_by_name_mode_and_content(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    for file in (("ab", b"c", 0o644), ("a", b"bc", 0o644), ("ab", b"c", 0o755)):
        files = (SourceFile(*file),)
        assert not (await made(service, files=files)).complete.cached
        assert (await made(service, files=files)).complete.cached


async def project(content: bytes) -> AsyncIterator[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("make.sh")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    yield out.getvalue()


async def test_a_project_counts_by_its_content(open_service: OpenService) -> None:
    service = await opened(open_service)
    cached = []
    for content in (MAKE, MAKE, MAKE + " "):
        uploaded = await service.jobs.projects.upload(project(content.encode()))
        ran = await made(service, code=None, project_id=uploaded.id)
        cached.append(ran.complete.cached)
    assert cached == [False, True, False]


@pytest.mark.parametrize(
    "make",
    [
        "exit 3",
        f"{MAKE}; ln -s program link",
        f"{MAKE}; ln program again",
        f"{MAKE}; mkfifo pipe",
        f"{MAKE}; chmod 600 program",
        f"{MAKE}; mkdir private; chmod 700 private",
        f"{MAKE}; chmod 0 .",
        f"{MAKE}; seq 100000",
        "echo 'exit 4' > program; kill -9 $$",
    ],
)
async def test_what_cannot_be_told_again_is_not_kept(open_service: OpenService, make: str) -> None:
    service = await opened(open_service)
    runs = [await made(service, code=make, limits={"output_bytes": 2**22}) for _ in range(2)]
    assert [ran.complete.cached for ran in runs] == [False, False]
    assert runs[0].verdict == runs[1].verdict
    await until_stored(service.engine.blobs, 0)


async def test_what_got_a_signal_while_it_was_compiled_is_not_kept(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    make = f"trap 'go=1' USR1; echo up; while [ ! \"$go\" ]; do sleep 0.01; done; {MAKE}"
    for _ in range(2):
        job = await service.jobs.submit(JobSpec(language="made", code=make))
        async for event in job.events():
            if isinstance(event.data, Output):
                break
        await job.signal("SIGUSR1")
        assert not (await ended(job)).complete.cached


async def test_what_could_reach_the_network_is_not_kept(open_service: OpenService) -> None:
    service = await opened(open_service, sandbox={"network": "open"})
    for _ in range(2):
        assert not (await made(service, network=True)).complete.cached


async def test_a_program_cannot_change_what_the_next_job_gets(open_service: OpenService) -> None:
    service = await opened(open_service)
    make = "echo 'cat data; echo changed > data; echo exit 9 > program' > program; echo new > data"
    texts = [(await made(service, code=make)).out for _ in range(3)]
    assert texts == ["new\n"] * 3


async def test_what_takes_longer_to_keep_than_to_compile_is_not_kept(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program waits for that: with a project of 15,000 files for three seconds."""
    service = await opened(open_service)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(10):
            archive.addfile(tarfile.TarInfo(f"file{number}"))

    async def data() -> AsyncIterator[bytes]:
        yield packed.getvalue()

    project = (await service.jobs.projects.upload(data())).id
    asked: list[object] = []
    store = build.store_build

    async def slow(*args: Any) -> Any:
        asked.append(args)
        await asyncio.sleep(60)
        return await store(*args)

    monkeypatch.setattr(compilation, "store_build", slow)
    monkeypatch.setattr(compilation, "LEAST_S", 0.0)
    code = f"{MAKE}; sleep 0.2"
    assert (await made(service, code=code)).verdict == "exited 0"
    assert len(asked) == 1
    monkeypatch.setattr(compilation, "ENTRY_S", 60.0)
    assert (await made(service, code=code, project_id=project)).verdict == "exited 0"
    assert len(asked) == 1
    monkeypatch.setattr(compilation, "store_build", store)
    monkeypatch.setattr(compilation, "LEAST_S", 30.0)
    for times in range(2):
        assert (await made(service, code=code)).complete.cached == bool(times)


async def test_it_can_be_off(open_service: OpenService) -> None:
    service = await opened(open_service, compile_cache={"max_bytes": 0})
    for _ in range(2):
        assert not (await made(service)).complete.cached
    await until_stored(service.engine.blobs, 0)


async def test_what_is_gone_is_compiled_again(open_service: OpenService) -> None:
    service = await opened(open_service)
    await made(service)
    cache = service.worker._settings.cache
    (entry,) = cache._kept.values()
    await service.engine.blobs.delete(entry[1].build.blob_id)
    assert [(await made(service)).complete.cached for _ in range(2)] == [False, True]


async def test_what_is_larger_than_is_kept_is_not_read(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened(open_service, compile_cache={"max_bytes": 200_000})
    kinds: list[str] = []
    blobs: Any = service.engine.blobs
    create = blobs.create

    def counted(*given: Any, kind: str, **how: Any) -> Any:
        kinds.append(kind)
        return create(*given, kind=kind, **how)

    monkeypatch.setattr(blobs, "create", counted)
    for size, created in ((90_000, ["build"]), (100_001, [])):
        kinds.clear()
        ran = await made(service, code=f"{MAKE}; head -c {size} /dev/zero > large")
        assert ran.verdict == "exited 0"
        assert kinds == created
    ((_, kept),) = service.worker._settings.cache._kept.values()
    assert 90_000 < kept.build.bytes < 91_000


async def test_what_is_not_listed_as_a_whole_is_not_kept(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.listing.MOST_CHARACTERS", 3)
    service = await opened(open_service)
    for _ in range(2):
        ran = await made(service)
        assert (ran.verdict, ran.complete.cached) == ("exited 0", False)
    assert (await made(service, cases=(Case(),))).complete.reason == "disk"


async def test_a_full_disk_is_no_harm(open_service: OpenService) -> None:
    service = await opened(open_service, engine={"blob_bytes": 1})
    for _ in range(2):
        ran = await made(service)
        assert (ran.verdict, ran.complete.cached) == ("exited 0", False)


@pytest.mark.parametrize("cases", [(), (Case(), Case())], ids=["no cases", "cases"])
async def test_programs_that_are_kept_give_way_to_the_next(
    open_service: OpenService, cases: tuple[Case, ...]
) -> None:
    """A client cannot delete them: they must not use up its share of the disk for good."""
    service = await opened(open_service, engine={"blob_bytes_per_client": 400_000})
    for number in (1, 2, 3, 1):
        code = f"{MAKE}; head -c 250000 /dev/zero > large; : {number}"
        ran = await made(service, tenant="alice", code=code, cases=cases)
        assert (ran.verdict, ran.complete.cached) == ("exited 0", False)
    assert (await made(service, tenant="alice", code=code, cases=cases)).complete.cached


async def test_programs_that_are_kept_give_way_to_a_project(open_service: OpenService) -> None:
    service = await opened(open_service, engine={"blob_bytes_per_client": 400_000})
    await made(service, tenant="alice", code=f"{MAKE}; head -c 250000 /dev/zero > large")
    packed = project(bytes(150_000))
    uploaded = await service.jobs.projects.upload(packed, tenant="alice")
    assert uploaded.id


async def test_a_tool_that_is_replaced(open_service: OpenService, tmp_path: Any) -> None:
    # The runtime's own files are shown by `read_only`, as a language's outside of /usr are.
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\n{MAKE}\n")
    tool.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.owner() == tmp_path.owner():
            folder.chmod(folder.stat().st_mode | 0o555)
    runtime = replace(MADE, compile=(str(tool),), read_only=(str(tool),))
    service = await open_service("bwrap", runtimes=[runtime])
    cached = [(await made(service)).complete.cached for _ in range(2)]
    tool.write_text(f"#!/bin/sh\n{MAKE}; :\n")
    cached.append((await made(service)).complete.cached)
    assert cached == [False, True, False]


async def test_a_build_that_cannot_be_deleted_is_no_harm() -> None:
    class Broken:
        async def delete(self, _: str) -> None:
            raise OSError("the disk is broken")

        make_evictable = delete

    blobs: Any = Broken()
    cache = CompileCache(blobs, 8 * ENTRY_BYTES)
    for key in (b"a", b"b", b"c"):
        assert await cache.keep(key, "alice", Compiled(JobProject(key.decode(), ENTRY_BYTES, 1)))
    assert (cache.get(b"a"), cache._used.total()) == (None, 4 * ENTRY_BYTES)


class Deleting:
    """Blobs of which only the deletion is seen."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def delete(self, blob_id: str) -> None:
        self.deleted.append(blob_id)

    async def make_evictable(self, blob_id: str) -> None:
        pass


async def test_the_least_recently_used_goes_first_and_a_tenant_has_half() -> None:
    blobs: Any = Deleting()
    one = Compiled(JobProject("", 1000 - ENTRY_BYTES % 1000, 1))
    cache = CompileCache(blobs, 4 * one.size)

    async def keep(name: str, tenant: str) -> bool:
        build = JobProject(name, one.build.bytes, 1)
        return await cache.keep(name.encode(), tenant, Compiled(build))

    assert await keep("a", "alice")
    assert not await keep("a", "alice"), "it is there"
    assert await keep("b", "alice")
    assert cache.get(b"a") is not None
    assert await keep("c", "alice")
    assert blobs.deleted == ["b"], "of her own"
    assert await keep("d", "bob")
    assert await keep("e", "carol")
    assert await keep("f", "dave")
    assert blobs.deleted == ["b", "a"]
    assert cache.get(b"a") is None
    assert await keep("a", "alice")
    large = Compiled(JobProject("large", 3 * one.size, 1))
    assert not await cache.keep(b"large", "erin", large)
    for key in (b"a", b"c", b"d", b"e", b"f"):
        await cache.forget(key)
    assert cache._used.total() == 0


async def digest(job: ResolvedJob, shown: Mapping[str, object] | None = None) -> bytes:
    """Return the key of a job's program where this is what its sandbox shows."""

    class Shows:
        async def shown_now(self, *_: object) -> Mapping[str, object]:
            return {"/usr/bin/cc": 1} if shown is None else shown

    class Blobs:
        async def find(self, blob_id: str) -> object:
            return SimpleNamespace(blob=SimpleNamespace(sha256=blob_id[:1]))

    settings = SimpleNamespace(path="/bin", blobs=Blobs())
    work: Any = SimpleNamespace(job=job, pool=Shows(), settings=settings)
    return await Compilation(work, JobEnd("compile"))._digest()


COMPILES: Final = ResolvedJob(
    job_id="job",
    language="made",
    backend="bwrap",
    steps=(
        Step(Phase.COMPILE, ("cc", "main.c"), Limits(), b"input"),
        Step(Phase.RUN, ("./a.out",), Limits()),
    ),
    files=(SourceFile("main.c", b"x"),),
    project=JobProject("1-blob", 1, 1),
)


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "alice"},
        {"language": "other"},
        {"backend": "firejail"},
        {"read_only": ("/opt/tool",)},
        {"etc": ("tool",)},
        {"tmp_bytes": 2**20},
        {"output_encoding": "base64"},
        {"env": {"A": "b"}},
        {"files": ()},
        {"project": None},
        {"project": JobProject("2-blob", 1, 1)},
        {"steps": (Step(Phase.COMPILE, ("cc", "-g"), Limits(), b"input"), COMPILES.steps[1])},
        {"steps": (Step(Phase.COMPILE, ("cc", "main.c"), Limits(), b""), COMPILES.steps[1])},
        {
            "steps": (
                Step(Phase.COMPILE, ("cc", "main.c"), Limits(processes=1), b"input"),
                COMPILES.steps[1],
            )
        },
    ],
    ids=str,
)
async def test_all_that_decides_what_a_compiler_makes_is_in_the_key(other: dict[str, Any]) -> None:
    assert await digest(replace(COMPILES, **other)) != await digest(COMPILES)


@pytest.mark.parametrize(
    "other",
    [
        {"job_id": "other"},
        {"stdin": b"x"},
        {"metadata": {"a": "b"}},
        {"artifacts": ("*",)},
        {"project": JobProject("1-again", 1, 1)},
        {"steps": (COMPILES.steps[0], Step(Phase.RUN, ("./a.out", "x"), Limits(processes=1)))},
    ],
    ids=str,
)
async def test_what_only_the_program_gets_is_not_in_the_key(other: dict[str, Any]) -> None:
    assert await digest(replace(COMPILES, **other)) == await digest(COMPILES)


async def test_what_the_sandbox_shows_is_in_the_key() -> None:
    one = await digest(COMPILES)
    assert await digest(COMPILES, {"/usr/bin/cc": 2}) != one
    assert await digest(COMPILES, {"/usr/bin/c": 1}) != one


async def test_what_was_not_said_as_a_whole_is_not_kept(open_service: OpenService) -> None:
    service = await opened(open_service, streams={"on_output_limit": "truncate"})
    for _ in range(2):
        ran = await made(service, code=f"{MAKE}; seq 100", limits={"output_bytes": 50})
        assert ran.complete.output_truncated
        assert not ran.complete.cached


async def test_what_could_reach_some_hosts_is_not_kept(open_service: OpenService) -> None:
    sandbox = {"network": "allow-list", "allow_hosts": ["example.org"]}
    service = await opened(open_service, sandbox=sandbox)
    for _ in range(2):
        assert not (await made(service, network=True)).complete.cached

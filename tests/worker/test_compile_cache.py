"""What compilers have made is kept for the next job with the same program, of the same tenant."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.model.events import Output, Status
from streamer.model.job import Case, JobProject, JobSpec, SourceFile
from streamer.model.runtime import Runtime
from streamer.worker.compilecache import ENTRY_BYTES, CompileCache, Compiled
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


async def test_cases_use_it_too(open_service: OpenService) -> None:
    service = await opened(open_service)
    cases = (Case(stdin=b"1"), Case(stdin=b"2"))
    first = await made(service, cases=cases)
    second = await made(service, cases=cases, limits={"wall_time_s": 5})
    third = await made(service)
    assert [ran.complete.cached for ran in (first, second, third)] == [False, True, True]
    assert second.text() == "compiling\n1./program\n2./program\n"


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


async def test_a_full_disk_is_no_harm(open_service: OpenService) -> None:
    service = await opened(open_service, engine={"blob_bytes": 1})
    for _ in range(2):
        ran = await made(service)
        assert (ran.verdict, ran.complete.cached) == ("exited 0", False)


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


class Deleting:
    """Blobs of which only the deletion is seen."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def delete(self, blob_id: str) -> None:
        self.deleted.append(blob_id)


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

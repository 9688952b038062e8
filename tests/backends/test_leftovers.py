"""Processes that a program leaves running at its end, and opening its pipes by name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer import spi
from streamer.model.events import Output
from streamer.model.job import JobSpec
from streamer.sandbox.running import Running
from streamer.testing.running import plugin
from tests.backends.conftest import checked_runs
from tests.conftest import OpenService
from tests.running import ended, program, run_job, script


@dataclass(frozen=True)
class Bare(spi.Backend):
    """A backend without our init: only the process group holds together what a program starts."""

    name: ClassVar[str] = "bare"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE
    gated: ClassVar[bool] = False

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        variables = [f"{name}={value}" for name, value in job.env.items()]
        return spi.LaunchPlan(
            argv=("/usr/bin/env", "-i", *variables, *job.argv),
            cwd=str(workspace),
            start_as=job.identity,
        )


BARE = plugin(Bare)

ONCE_ALONE = "while grep -qs '^State:.[^ZX]' /proc/$$/status; do sleep 0.01; done; echo alone"
"""A subshell's script that waits until its shell has ended, reaped or not, and reports it."""


@pytest.fixture(params=["plain", "bwrap", "firejail", "bare"])
def every_backend(request: pytest.FixtureRequest) -> str:
    if request.param != "bare":
        request.getfixturevalue("need")(request.param)
    return str(request.param)


async def test_what_filters_behind_a_program_write_is_kept(
    open_service: OpenService, every_backend: str
) -> None:
    service = await open_service(every_backend, plugins=(BARE,), queue={"concurrency": 4})
    source = "exec > >(tee log.txt) 2>&1\necho hello\n"
    job = {"command": ("bash", "main.sh"), "files": (script("main.sh", source),)}
    for _ in range(10):
        jobs = await asyncio.gather(*(run_job(service, **job) for _ in range(5)))
        assert [ran.out for ran in jobs] == ["hello\n"] * 5


async def test_what_a_program_leaves_may_end_by_itself(
    open_service: OpenService, every_backend: str
) -> None:
    sandbox = {"linger_s": 60}
    service = await open_service(every_backend, plugins=(BARE,), sandbox=sandbox)
    async for run in checked_runs(service):
        ran = await run(command=("sh", "-c", f"({ONCE_ALONE}; sleep 0.3; echo late) & exit 3"))
        assert ran.verdict == "exited 3"
        assert ran.text() == "alone\nlate\n"


async def test_what_holds_no_output_is_not_waited_for(
    open_service: OpenService, every_backend: str
) -> None:
    sandbox = {"linger_s": 60}
    service = await open_service(every_backend, plugins=(BARE,), sandbox=sandbox)
    async for run in checked_runs(service):
        async with asyncio.timeout(30):
            ran = await run(command=("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo x; exit 3"))
        assert (ran.verdict, ran.text()) == ("exited 3", "x\n")


async def test_what_is_left_dies_when_its_time_is_over_however_busy(
    open_service: OpenService, every_backend: str
) -> None:
    service = await open_service(every_backend, plugins=(BARE,))
    async for run in checked_runs(service):
        ran = await run(command=("sh", "-c", "sleep 600 & echo x; exit 3"))
        assert (ran.verdict, ran.text()) == ("exited 3", "x\n")
        busy = "(while :; do echo y; sleep 0.01; done) & exit 3"
        assert (await run(command=("sh", "-c", busy))).verdict == "exited 3"


async def test_the_time_for_what_is_left_may_be_none(
    open_service: OpenService, every_backend: str
) -> None:
    service = await open_service(every_backend, plugins=(BARE,), sandbox={"linger_s": 0})
    async for run in checked_runs(service):
        ran = await run(command=("sh", "-c", "(sleep 5; echo late) & exit 3"))
        assert (ran.verdict, ran.text()) == ("exited 3", "")


async def test_what_is_left_has_no_time_beyond_the_limit(
    open_service: OpenService, every_backend: str
) -> None:
    sandbox = {"linger_s": 60}
    service = await open_service(every_backend, plugins=(BARE,), sandbox=sandbox)
    async for run in checked_runs(service):
        async with asyncio.timeout(30):
            ran = await run(command=("sh", "-c", "sleep 600 & exit 3"), limits={"wall_time_s": 1.5})
        assert ran.verdict == "exited 3"


async def test_a_stop_that_comes_after_the_programs_end_does_not_change_its_verdict(
    open_service: OpenService, every_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the program left may see its end, and have written, before we have heard of it.
    heard = asyncio.Event()
    tell_exit = Running._tell_exit

    def tell_and_set(self: Running, *arguments: Any) -> None:
        tell_exit(self, *arguments)
        heard.set()

    monkeypatch.setattr(Running, "_tell_exit", tell_and_set)
    sandbox = {"linger_s": 60}
    service = await open_service(every_backend, plugins=(BARE,), sandbox=sandbox)
    # The trial of the backend runs a program too, whose end must not be taken for this one's.
    await ended(await service.jobs.submit(JobSpec(command=("true",))))
    heard.clear()
    command = ("sh", "-c", f"({ONCE_ALONE}; sleep 600) & exit 3")
    job = await service.jobs.submit(JobSpec(command=command))
    async for event in job.events():
        if isinstance(event.data, Output):
            await heard.wait()
            assert await job.cancel() == "requested"
    ran = await ended(job)
    assert (ran.verdict, ran.text()) == ("exited 3", "alone\n")


async def test_limits_hold_for_what_is_left(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend, sandbox={"linger_s": 60, "cgroup": "off"})
    async for run in checked_runs(service):
        spin = f"({ONCE_ALONE}; while :; do :; done) & exit 3"
        async with asyncio.timeout(40):
            ran = await run(command=("sh", "-c", spin), limits={"cpu_time_s": 1})
        assert ran.verdict == "exited 3"


NAMES = """
    echo one > /dev/stdout
    echo two > /proc/self/fd/1
    echo three > /dev/fd/1
    echo four | tee /dev/stderr > /dev/null
    cat /dev/stdin
    echo five > /dev/stderr
"""


async def test_standard_streams_open_by_name(open_service: OpenService, every_backend: str) -> None:
    service = await open_service(every_backend, plugins=(BARE,))
    job = {"command": ("sh", "main.sh"), "files": (script("main.sh", NAMES),)}
    ran = await run_job(service, **job, stdin=b"input\n")
    assert ran.text("stderr") == "four\nfive\n"
    assert ran.text() == "one\ntwo\nthree\ninput\n"
    ran = await run_job(service, command=("sort", "/dev/fd/0"), stdin=b"b\na\n")
    assert ran.out == "a\nb\n"
    assert (await run_job(service, command=("cat", "/dev/stdin"))).out == ""


async def test_without_input_standard_input_is_a_pipe_at_its_end(
    open_service: OpenService, every_backend: str
) -> None:
    service = await open_service(every_backend, plugins=(BARE,))
    ran = await run_job(
        service,
        **program("""
            import asyncio, sys

            async def main():
                reader = asyncio.StreamReader()
                await asyncio.get_running_loop().connect_read_pipe(
                    lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
                )
                print(await reader.readline())

            asyncio.run(main())
        """),
        limits={"wall_time_s": 30},
    )
    assert ran.out == "b''\n"

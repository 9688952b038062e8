"""Nothing that a job, a sandbox or an engine does blocks a job, its place or a drain for ever."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer import spi
from streamer.engine.memory.lease import MemoryLease
from streamer.jobs.job import Job
from streamer.model.events import Error, Output, Status
from streamer.model.job import JobSpec, Limits, Phase, ResolvedJob, SourceFile, Step
from streamer.sandbox.drivers.protocol import PROTOCOL
from streamer.testing.running import plugin
from tests.conftest import OpenService, Start
from tests.running import (
    adopt_orphans,
    descendants,
    descriptors,
    ended,
    kept_besides,
    program,
    run_job,
)
from tests.support import parts_of, submit

SLEEPER = ("sh", "-c", "echo up; sleep 600")


async def until_output(job: Job) -> None:
    """Wait for the first output of a job."""
    async for event in job.events():
        if isinstance(event.data, Output):
            return


# -- pipes in the hands of strangers --------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Return a socket of a process outside, to which every user may send descriptors."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        Path(folder).chmod(0o755)
        listening.bind(f"{folder}/s")
        Path(folder, "s").chmod(0o777)
        listening.listen()
        yield listening


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_an_output_pipe_in_a_strangers_hands_keeps_nobody_waiting(
    open_service: OpenService, need: Callable[[str], str], stranger: socket.socket, *, busy: bool
) -> None:
    held: list[int] = []

    def hold() -> None:
        connection, _ = stranger.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 1, 1)
            held.extend(fds)
        with suppress(BrokenPipeError):
            while busy:
                os.write(fds[0], b"strange\n")

    service = await open_service(need("plain"), queue={"concurrency": 1})
    thread = threading.Thread(target=hold)
    thread.start()
    ran = await run_job(
        service,
        **program(f"""
            import socket
            s = socket.socket(socket.AF_UNIX)
            s.connect({stranger.getsockname()!r})
            socket.send_fds(s, [b"x"], [1])
            s.recv(1)
            print("the end of it")
        """),
    )
    assert ran.verdict == "exited 0"
    assert "the end of it" in ran.text()
    assert (await run_job(service, command=("echo", "next"))).out == "next\n"
    await asyncio.to_thread(thread.join)
    os.close(held[0])


# -- what does not end ------------------------------------------------------------------------


class Ice:
    """Freezes processes so that no signal ends them, like a hanging disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.frozen: list[int] = []

    def freeze(self) -> None:
        """Freeze all that this process has started."""
        self._patch.setattr(signal, "pidfd_send_signal", lambda *_: None)
        self._patch.setattr(os, "killpg", lambda *_: None)
        self.frozen = list(descendants())
        for pid in self.frozen:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """End the frozen processes."""
        self._patch.undo()
        for pid in self.frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def ice(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ice]:
    for place in (
        "sandbox.drivers.gated.END_TIMEOUT_S",
        "worker.program.END_TIMEOUT_S",
        "worker.execution.TIDY_S",
    ):
        monkeypatch.setattr(f"streamer.{place}", 0.3)
    frozen = Ice(monkeypatch)
    adopt_orphans()
    yield frozen
    frozen.thaw()


async def test_a_sandbox_that_does_not_end_costs_its_place_and_says_so(
    start: Start, need: Callable[[str], str], ice: Ice
) -> None:
    sandbox = {"backend": need("bwrap"), "cgroup": "off"}
    client = await start(sandbox=sandbox, queue={"concurrency": 1})
    service = parts_of(client)
    job = service.jobs.job(await submit(client, command=list(SLEEPER)))
    await until_output(job)
    ice.freeze()
    await job.cancel()
    end = (await ended(job)).end
    assert isinstance(end, Error)
    assert end.code == "sandbox_error"
    async with client.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["checks"]["takedown"] is False
    # Its place and its user are not used again.
    second = await service.jobs.submit(JobSpec(command=("echo", "2")))
    await asyncio.sleep(0.2)
    assert (await second.view()).state == "queued"
    ice.thaw()
    assert (await ended(second)).out == "2\n"
    async with client.get("/readyz") as response:
        assert response.status == 200
    assert kept_besides(service.worker.pool)[0] == {}


async def test_a_template_that_does_not_end_is_told(
    start: Start, need: Callable[[str], str], ice: Ice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.drivers.template.END_TIMEOUT_S", 0.1)
    sandbox = {"backend": need("bwrap"), "cgroup": "off", "warm": False}
    client = await start(sandbox=sandbox)
    service = parts_of(client)
    assert (await run_job(service, command=("echo", "1"))).out == "1\n"
    assert service.worker.pool is not None
    templates = service.worker.pool.templates
    # That of the test of the backend may show more.
    every = [*templates._kept.values()]

    async def until_ready(status: int) -> Mapping[str, bool]:
        async with asyncio.timeout(20):
            while True:
                async with client.get("/readyz") as response:
                    if response.status == status:
                        checks: Mapping[str, bool] = (await response.json())["checks"]
                        return checks
                await asyncio.sleep(0.01)

    ice.freeze()
    for kept in every:
        templates._end(kept)
    assert not (await until_ready(503))["takedown"]
    ice.thaw()
    assert (await until_ready(200))["takedown"]
    assert descendants() == {}


async def test_a_drain_does_not_wait_for_what_does_not_end(
    open_service: OpenService, need: Callable[[str], str], ice: Ice
) -> None:
    service = await open_service(need("bwrap"), sandbox={"cgroup": "off"})
    job = await service.jobs.submit(JobSpec(command=SLEEPER))
    await until_output(job)
    ice.freeze()
    async with asyncio.timeout(60):
        await service.drain(0)
    assert isinstance((await ended(job)).end, Error)
    ice.thaw()
    while service.worker.resisting:
        await asyncio.sleep(0.01)


# -- tidying up ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Untidy(spi.Backend):
    """A backend whose session never closes."""

    name: ClassVar[str] = "untidy"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(
            argv=job.argv, cwd=str(workspace), workspace=str(workspace), start_as=job.identity
        )

    @asynccontextmanager
    async def session(self, job: spi.SandboxJob, workspace: Path) -> AsyncIterator[spi.LaunchPlan]:
        yield self.plan(job, workspace)
        raise OSError(5, "the disk is broken")


async def test_a_failure_of_tidying_up_does_not_change_the_verdict(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    service = await open_service("untidy", plugins=(plugin(Untidy),))
    ran = await run_job(service, command=("sh", "-c", "echo done; exit 3"))
    assert (ran.verdict, ran.text()) == ("exited 3", "done\n")
    assert (await run_job(service, command=("echo", "next"))).out == "next\n"
    assert "the cleanup failed" in caplog.text
    assert "the disk is broken" in caplog.text


# -- before the program -----------------------------------------------------------------------

DEAF = """
import os, socket, struct, sys, time
service = socket.socket(fileno=0)
service.send(struct.pack("<I", 3) + b"H" + bytes([{protocol}, 1]))
time.sleep(600)
"""


def deaf(instead: set[str]) -> type[spi.Backend]:
    """Return a backend whose init, once `instead` is set, says hello and does nothing more."""

    @dataclass(frozen=True)
    class Deaf(Untidy):
        name: ClassVar[str] = "deaf"

        def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
            argv = job.argv
            if instead:
                argv = (sys.executable, "-I", "-c", DEAF.format(protocol=PROTOCOL))
            return spi.LaunchPlan(
                argv=argv,
                cwd=str(workspace),
                workspace=str(workspace),
                start_as=job.identity,
            )

        session = spi.Backend.session

    return Deaf


FILES = (SourceFile("f", b"x" * 100), SourceFile("g", b"x" * 8_000_000))


async def test_a_job_is_cancelled_while_its_files_are_written(open_service: OpenService) -> None:
    instead: set[str] = set()
    service = await open_service("deaf", plugins=(plugin(deaf(instead)),))
    instead.add("from now on")
    adopt_orphans()
    files = descriptors()
    job = await service.jobs.submit(JobSpec(command=("true",), files=FILES))
    async with job.follow() as log:
        while (await job.view()).state != "preparing":
            await log.wait(log.last_id)
    await job.cancel()
    ran = await ended(job)
    assert (ran.complete.reason, ran.complete.exit_code, ran.complete.signal) == (
        ("cancelled", None, None)
    )
    assert not [e for e in ran.events if isinstance(e.data, Status) and e.data.state == "running"]
    assert descendants() == {}
    assert descriptors() == files


async def test_preparing_is_under_the_wall_limit(open_service: OpenService) -> None:
    instead: set[str] = set()
    service = await open_service("deaf", plugins=(plugin(deaf(instead)),))
    instead.add("from now on")
    ran = await run_job(service, command=("true",), files=FILES, limits={"wall_time_s": 0.5})
    assert (ran.complete.reason, ran.complete.timed_out) == ("wall_time", True)


async def test_a_program_that_the_init_does_not_take_is_an_error(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead: set[str] = set()
    service = await open_service("deaf", plugins=(plugin(deaf(instead)),))
    instead.add("from now on")
    monkeypatch.setattr("streamer.sandbox.drivers.gated.START_TIMEOUT_S", 0.3)
    monkeypatch.setattr("streamer.sandbox.drivers.channel.InitChannel.put_files", _no_files)
    many = tuple("x" * 1000 for _ in range(1000))
    ran = await run_job(service, command=("echo", *many))
    assert ran.verdict == "error sandbox_error"


async def _no_files(*_: object, **__: object) -> None:
    """Answer like an init."""


@pytest.mark.parametrize("count", [300, 3])
async def test_files_that_do_not_fit_are_the_jobs_own_fault(
    open_service: OpenService, backend: str, count: int
) -> None:
    service = await open_service(backend)
    files = tuple(SourceFile(f"f{number}", b"x") for number in range(count))
    ran = await run_job(service, command=("echo", "ran"), files=files, limits={"disk_bytes": 65536})
    if count == 3:
        assert ran.out == "ran\n"
        return
    assert (ran.complete.reason, ran.complete.exit_code) == ("disk", None)
    assert not [e for e in ran.events if isinstance(e.data, Status) and e.data.state == "running"]


# -- what was said before the end ---------------------------------------------------------------


async def test_what_a_wrapper_says_when_it_breaks_during_a_job_is_logged(
    open_service: OpenService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flag = tmp_path / "flag"
    tmp_path.chmod(0o755)
    script = (
        f'exec 3<&0; "$@" <&3 3<&- & exec 0</dev/null 3<&-; until [ -e {shlex.quote(str(flag))} ] || ! kill -0 $! 2>/dev/null; '
        "do sleep 0.02; done; [ -e "
        f"{shlex.quote(str(flag))} ] && echo the machine is broken >&2 && kill -9 $!; wait"
    )

    @dataclass(frozen=True)
    class Breaking(Untidy):
        name: ClassVar[str] = "breaking"

        def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
            return spi.LaunchPlan(
                argv=("/bin/sh", "-c", script, "sh", *job.argv),
                cwd=str(workspace),
                workspace=str(workspace),
                start_as=job.identity,
            )

        session = spi.Backend.session

    for folder in tmp_path.parents:
        if os.geteuid() == 0 and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    service = await open_service("breaking", plugins=(plugin(Breaking),))
    adopt_orphans()
    # The kernel ends the program with its init; a child of it, where no user or namespace is
    # the job's own, would stay.
    job = await service.jobs.submit(JobSpec(command=("sh", "-c", "echo up; exec sleep 600")))
    await until_output(job)
    flag.touch()
    assert (await ended(job)).verdict == "error sandbox_error"
    assert "the machine is broken" in caplog.text
    await service.drain(0)
    while descendants():
        await asyncio.sleep(0.01)


async def test_a_signal_that_comes_before_the_program_reaches_it(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend)
    for _ in range(5):
        job = await service.jobs.submit(
            JobSpec(command=("sleep", "600"), limits={"wall_time_s": 20})
        )
        await job.signal(signal.SIGUSR1)
        assert (await ended(job)).verdict == "signaled SIGUSR1"


async def test_an_init_that_outlives_its_wrapper_is_waited_for(open_service: OpenService) -> None:
    instead: set[str] = set()
    script = 'setsid "$@" <&3 3<&- & until [ -e said ]; do sleep 0.01; done'

    @dataclass(frozen=True)
    class Leaving(Untidy):
        name: ClassVar[str] = "leaving"

        def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
            argv = job.argv
            if instead:
                deaf = DEAF.format(protocol=PROTOCOL).replace("time.sleep", "open('said', 'w')", 1)
                deaf = deaf.replace("open('said', 'w')(600)", "open('said', 'w'); time.sleep(600)")
                command = (sys.executable, "-I", "-c", deaf)
                argv = ("/bin/sh", "-c", f"exec 3<&0; {script}", "sh", *command)
            return spi.LaunchPlan(
                argv=argv,
                cwd=str(workspace),
                workspace=str(workspace),
                start_as=job.identity,
            )

        session = spi.Backend.session

    # A control group would end it too.
    sandbox = {"cgroup": "off"}
    service = await open_service("leaving", plugins=(plugin(Leaving),), sandbox=sandbox)
    instead.add("from now on")
    adopt_orphans()
    ran = await run_job(service, command=("true",), files=FILES, limits={"wall_time_s": 0.5})
    assert ran.complete.reason == "wall_time"
    assert descendants() == {}


# -- between two programs of a job --------------------------------------------------------------

COMPILE = Step(Phase.COMPILE, ("true",), Limits())


async def test_a_compiled_program_is_held_for_its_readers_too(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, held = MemoryLease.room, asyncio.Event()

    async def noted(lease: MemoryLease) -> None:
        held.set()
        await room(lease)

    monkeypatch.setattr(MemoryLease, "room", noted)
    service = await open_service(need("plain"), streams={"on_full": "wait", "log_bytes": 100_000})
    step = Step(Phase.RUN, ("sh", "-c", "yes | head -c 1000000"), Limits())
    await service.engine.submit(ResolvedJob("compiled", None, "plain", (COMPILE, step)))
    job = service.jobs.job("compiled")
    async with job.follow() as log:
        with log.cursor() as cursor:
            waits = {asyncio.create_task(held.wait()), asyncio.create_task(job.result())}
            await asyncio.wait(waits, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert held.is_set(), "it wrote on, though nobody has read"
            async with asyncio.timeout(30):
                while not cursor.at_end:
                    await log.wait(cursor.position)
                    cursor.advance((await cursor.read())[1])
                await asyncio.gather(*waits)


async def test_a_signal_between_two_programs_reaches_the_second(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service(need("plain"))
    job, state = service.jobs.job("compiled"), MemoryLease.state

    async def signalled(lease: MemoryLease, name: Any, policy: str | None = None) -> None:
        if name == "running":
            await job.signal("SIGUSR1")
            while lease._inbox._signals:
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # for the worker to have handled what it has taken
        await state(lease, name, policy)

    monkeypatch.setattr(MemoryLease, "state", signalled)
    step = Step(Phase.RUN, ("sleep", "600"), Limits(wall_time_s=10))
    await service.engine.submit(ResolvedJob("compiled", None, "plain", (COMPILE, step)))
    assert (await ended(job)).verdict == "signaled SIGUSR1"

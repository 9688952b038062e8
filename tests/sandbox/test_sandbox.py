"""A sandbox as an object, without jobs: every built-in backend, with the real init."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.firejail import Firejail
from sandboxes.plain import Plain
from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile
from streamer.sandbox.cgroups import cgroup as groups
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.cgroups.files import pids
from streamer.sandbox.drivers import direct, spawn
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.drivers.spawn import Spawned
from streamer.sandbox.host import workspace
from streamer.sandbox.lifeline import Lifeline
from streamer.sandbox.listing import Listing
from streamer.sandbox.meter import Meter
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.running import Running
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit, LargeFile, PathRefused, Run, RunEnd, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import Backend, LaunchPlan, SandboxJob
from streamer.testing.running import SLOWNESS
from tests.backends.test_third_party import Direct
from tests.running import adopt_orphans, descendants, descriptors

MIB = 1024 * 1024
LIMITS = Limits(wall_time_s=60)
BACKENDS: dict[str, Backend] = {
    "plain": Plain(),
    "bwrap": Bwrap(template=False),
    "firejail": Firejail(),
    "direct": Direct(),
    "templated": Bwrap(),
}
OURS = ("plain", "bwrap", "templated", "firejail")


@pytest.fixture
def need(need: Callable[[str], str]) -> Callable[[str], str]:
    """Return the function that skips a test; "templated" is bwrap with a template."""

    def check(name: str) -> str:
        need("bwrap" if name == "templated" else name)
        return name

    return check


@pytest.fixture(params=OURS)
def backend(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    """Return each backend of ours that works here, in turn."""
    return need(request.param)


@pytest.fixture(params=["auto", "off"], ids=["groups", "no-groups"])
def cgroup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def pool_of(cgroup: str = "auto") -> Iterator[Pool]:
    with open_pool(
        BACKENDS,
        state_dir="",
        cgroup=cgroup,
        cpu_weight=12,
        uid_base=60706,
        places=4,
        users=4,
        strict_filter=False,
    ) as pool:
        pool.templates.tried("bwrap", "")
        yield pool


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.setitem(BACKENDS, "loose", Loose())
    monkeypatch.setitem(BACKENDS, "borrowing", Borrowing())
    with pool_of() as pool:
        yield pool


@asynccontextmanager
async def lent(pool: Pool, backend: str, limits: Limits = LIMITS) -> AsyncIterator[Sandbox]:
    """Open a sandbox, and check that it leaves nothing when it is closed."""
    adopt_orphans()
    processes, files = descendants(), descriptors()
    sandbox = await pool.lend(Shape(backend, limits))
    assert sandbox.from_template == (backend == "templated")
    try:
        yield sandbox
    finally:
        await sandbox.close()
        await sandbox.close()
        await pool.close()
    assert descendants() == processes
    assert descriptors() == files
    assert list(pool.folder.workspaces.path.iterdir()) == []
    assert in_groups(pool) == []


def in_groups(pool: Pool) -> list[int]:
    """Return what is in the groups that were made for sandboxes: of one sandbox, at most one."""
    roots = pool.cgroups.roots if pool.cgroups else ()
    for root in roots:
        assert len(list(root.glob("*/"))) <= 1
    return [pid for root in roots for group in root.glob("*/") for pid in pids(group)]


@pytest.fixture
async def sandbox(pool: Pool, backend: str) -> AsyncIterator[Sandbox]:
    async with lent(pool, backend) as sandbox:
        yield sandbox


def shell(script: str, stdio: Stdio, limits: Limits = LIMITS, **env: str) -> Run:
    return Run(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin", **env}, limits, stdio)


async def finished(sandbox: Sandbox, running: Running) -> RunEnd:
    """Wait for the program, and end what it has left."""
    await running.exited
    sandbox.end_rest()
    return await running.ended


async def told(sandbox: Sandbox, script: str, limits: Limits = LIMITS) -> tuple[int, str]:
    """Run a script to its end; return its exit code and what it has printed."""
    stdio = Stdio.pipes()
    try:
        end = await finished(sandbox, await sandbox.run(shell(script, stdio, limits)))
        out = os.read(stdio._ours["stdout"], 65536).decode()
    finally:
        stdio.close()
    return os.waitstatus_to_exitcode(end.status), out


async def until_written(stdio: Stdio) -> bytes:
    """Wait for the first output of a program."""
    ready = asyncio.Event()
    fd = stdio._ours["stdout"]
    asyncio.get_running_loop().add_reader(fd, ready.set)
    async with asyncio.timeout(20):
        await ready.wait()
    asyncio.get_running_loop().remove_reader(fd)
    return os.read(fd, 65536)


async def test_programs_run_one_after_another_among_the_same_files(sandbox: Sandbox) -> None:
    await sandbox.put_files((SourceFile("a/b", b"one"),), LIMITS)
    assert await told(sandbox, "cat a/b; echo two >c; exit 3") == (3, "one")
    assert await told(sandbox, "cat c; pwd") == (0, f"two\n{sandbox.home}\n")
    await sandbox.put_files((SourceFile("d", b"three"),), LIMITS)
    assert await told(sandbox, "cat d; kill -9 $$") == (-9, "three")


async def test_programs_end_by_themselves_when_their_time_is_over(
    pool: Pool, sandbox: Sandbox
) -> None:
    assert await told(sandbox, "echo one") == (0, "one\n"), "without a time there is none"
    stdio = Stdio.pipes()
    pool.lifeline.extend(Lifeline.now_us() + 400_000)
    running = await sandbox.run(shell("trap '' TERM; sleep 600 & sleep 600", stdio))
    end = await running.ended
    assert end.cause == "lost"
    stdio.close()
    pool.lifeline.extend(Lifeline.now_us() + 400_000)
    stdio = Stdio.pipes()
    running = await sandbox.run(shell("sleep 1; echo three", stdio))
    pool.lifeline.extend(Lifeline.now_us() + 600_000_000)
    end = await finished(sandbox, running)
    assert (end.cause, os.read(stdio._ours["stdout"], 100)) == (None, b"three\n")
    stdio.close()


async def test_a_program_that_waited_for_its_job_has_its_time(pool: Pool, sandbox: Sandbox) -> None:
    stdio = Stdio.pipes()
    await sandbox.make_ready(shell("echo up; sleep 600", stdio))
    pool.lifeline.extend(Lifeline.now_us() + 400_000)
    running = await sandbox.run(shell("echo up; sleep 600", sandbox.stdio(with_input=True)))
    assert (await running.ended).cause == "lost"
    assert os.read(stdio._ours["stdout"], 100) == b"up\n"
    stdio.close()


async def test_what_a_program_writes_has_an_end_whether_it_was_started_or_not(
    sandbox: Sandbox,
) -> None:
    stdio, refused = Stdio.pipes(), Stdio.pipes()
    running = await sandbox.run(shell("echo one", stdio))
    with pytest.raises(SandboxFailure, match="another program runs"):
        await sandbox.run(shell("echo two", refused))
    await finished(sandbox, running)
    assert os.read(stdio._ours["stdout"], 100) == b"one\n"
    assert os.read(stdio._ours["stdout"], 100) == b""
    assert os.read(refused._ours["stdout"], 100) == b""
    stdio.close()
    refused.close()


@pytest.mark.parametrize(
    ("left", "name"),
    [("ln -s {0}/f f", "f"), ("mkfifo f", "f"), ("ln -s {0} d", "d/f"), ("ln -s {0}/new f", "f")],
)
@pytest.mark.parametrize("backend", [*BACKENDS])
async def test_files_are_put_nowhere_else_whatever_a_program_has_left(
    pool: Pool, need: Callable[[str], str], tmp_path: Path, backend: str, left: str, name: str
) -> None:
    if backend != "direct":
        need(backend)
    (tmp_path / "f").write_text("of the host")
    async with lent(pool, backend) as sandbox:
        assert (await told(sandbox, left.format(tmp_path)))[0] == 0
        async with asyncio.timeout(20):
            with pytest.raises(PathRefused, match="cannot be written"):
                await sandbox.put_files((SourceFile(name, b"new"),), LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "of the host"


async def test_without_our_init_no_file_is_written_by_another_name(pool: Pool) -> None:
    async with lent(pool, "direct") as sandbox:
        outside, inside = pool.folder.path / "f", Path(sandbox.home, "f")
        outside.write_text("of the host")
        inside.hardlink_to(outside)
        with pytest.raises(PathRefused, match="cannot be written"):
            await sandbox.put_files((SourceFile("f", b"new"),), LIMITS)
        assert outside.read_text() == "of the host"
        outside.unlink()
        await sandbox.put_files((SourceFile("f", b"new"), SourceFile("a/b/c", b"deep")), LIMITS)
        assert await told(sandbox, "cat f a/b/c; rm -r a f") == (0, "newdeep")


@pytest.mark.parametrize("name", [*BACKENDS])
async def test_a_program_starts_where_it_is_told(
    pool: Pool, need: Callable[[str], str], name: str
) -> None:
    if name != "direct":
        need(name)
    async with lent(pool, name) as sandbox:
        stdio = Stdio.pipes()
        run = Run(("/bin/pwd",), {"PATH": "/usr/bin:/bin"}, LIMITS, stdio, cwd="/usr")
        await finished(sandbox, await sandbox.run(run))
        assert os.read(stdio._ours["stdout"], 100) == b"/usr\n"
        stdio.close()


async def test_files_that_do_not_fit_are_told(pool: Pool, backend: str) -> None:
    few = Limits(disk_bytes=65536)
    async with lent(pool, backend, few) as sandbox:
        with pytest.raises(FilesDoNotFit):
            await sandbox.put_files([SourceFile(f"f{n}", b"x") for n in range(300)], few)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([SourceFile(f"a/f{n}", bytes(200)) for n in range(300)], FilesDoNotFit),
        ([SourceFile("a/b/large", bytes(MIB)), SourceFile("a/c", b"x")], FilesDoNotFit),
        ([SourceFile("a/f", b"new"), SourceFile("folder", b"new")], PathRefused),
        ([SourceFile("a/f", b"new"), SourceFile("link/f", b"new")], PathRefused),
    ],
)
@pytest.mark.parametrize("name", [*BACKENDS])
async def test_a_sandbox_goes_on_after_files_that_were_refused(
    pool: Pool,
    need: Callable[[str], str],
    name: str,
    files: list[SourceFile],
    fault: type[Exception],
) -> None:
    few = Limits(disk_bytes=65536)
    begin = "mkdir -p folder && ln -sfn folder link && echo old >f"
    # As much again as is left of the disk, and for so long that the init has looked at it.
    look = "ls -R && cat f && head -c 30000 /dev/zero >g && sleep 0.2"
    if name != "direct":
        need(name)
    async with lent(pool, name, few) as sandbox:
        for _ in range(2):
            assert await told(sandbox, begin, few) == (0, "")
            with pytest.raises(fault):
                await sandbox.put_files(files, few)
            assert await told(sandbox, look, few) == (0, ".:\nf\nfolder\nlink\n\n./folder:\nold\n")
            await sandbox.put_files((SourceFile("f", b"new"), SourceFile("folder/g", b"n")), few)
            assert await told(sandbox, "cat f folder/g; rm g folder/g", few) == (0, "newn")


async def test_a_file_that_cannot_be_read_to_its_end_is_not_written(sandbox: Sandbox) -> None:
    async def pieces(*, broken: bool) -> AsyncIterator[bytes]:
        yield bytes(300_000)
        if broken:
            raise OSError(errno.EIO, "the disk is broken")

    with pytest.raises(OSError, match="broken"):
        await sandbox.put_file(LargeFile("a/b", 0o644, 600_000, pieces(broken=True)), LIMITS)
    assert await told(sandbox, "ls") == (0, "")
    await sandbox.put_file(LargeFile("a/b", 0o755, 300_000, pieces(broken=False)), LIMITS)
    assert await told(sandbox, "test -x a/b && wc -c <a/b") == (0, "300000\n")


async def test_a_signal_reaches_the_program_and_a_kill_all_of_it(sandbox: Sandbox) -> None:
    stdio = Stdio.pipes()
    script = "trap 'echo heard' USR1; setsid sleep 600 & echo up; while :; do sleep 0.01; done"
    running = await sandbox.run(shell(script, stdio))
    assert await until_written(stdio) == b"up\n"
    sandbox.signal(signal.SIGUSR1)
    assert await until_written(stdio) == b"heard\n"
    assert not running.exited.done()
    await sandbox.kill()
    end = await running.ended
    assert (end.status, end.cause) == (signal.SIGKILL, "killed")
    stdio.close()


class Loose(Direct):
    """Its programs are no first process of a namespace, with which the rest would end."""

    name: ClassVar[str] = "loose"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return replace(super().plan(job, workspace), own_pid_namespace=False)


@pytest.mark.parametrize("name", [*OURS, "loose"])
async def test_what_a_program_leaves_goes_on_until_it_is_ended(
    pool: Pool, need: Callable[[str], str], name: str
) -> None:
    if name != "loose":
        need(name)
    rest = "exec 3<&0; sh -c 'read -r word; echo $word; sleep 600' <&3 & exit"
    async with lent(pool, name) as sandbox:
        for code in (3, 4):
            stdio = Stdio.pipes(with_input=True)
            running = await sandbox.run(shell(f"{rest} {code}", stdio))
            await running.exited
            os.write(stdio._ours["stdin"], b"on\n")
            assert await until_written(stdio) == b"on\n"
            assert not running.ended.done()
            sandbox.end_rest()
            end = await running.ended
            assert (end.cause, os.waitstatus_to_exitcode(end.status)) == (None, code)
            assert 0 < end.wall_us < 60e6 * SLOWNESS
            stdio.close()


class Shared(Plain):
    """Its init is in the namespace of the host's processes."""

    name: ClassVar[str] = "shared"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return replace(super().plan(job, workspace), own_pid_namespace=False)


@pytest.mark.parametrize(
    ("name", "cgroup"), [("shared", "auto"), ("plain", "off"), ("direct", "auto")]
)
async def test_nothing_is_kept_that_no_namespace_ends_or_no_group_counts(
    monkeypatch: pytest.MonkeyPatch, name: str, cgroup: str
) -> None:
    monkeypatch.setitem(BACKENDS, "shared", Shared())
    with pool_of(cgroup) as pool:
        async with lent(pool, name) as sandbox:
            with pytest.raises(SandboxFailure, match="processes"):
                sandbox.keep_rest()


async def test_without_our_init_a_rest_that_does_not_die_fails_the_run(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool, "direct") as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(spawn, "_lives", lambda _: True)
            patch.setattr(direct, "END_TIMEOUT_S", 0.1)
            running = await sandbox.run(shell("true", Stdio.null()))
            with pytest.raises(SandboxFailure, match="does not die"):
                await finished(sandbox, running)


JOINING = """
import os, signal, time
group = os.getpgid(0)
up, told = os.pipe()
if os.fork() == 0:
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:  # one after the other joins the program's process group, but this process does not
        try:
            if (child := os.fork()) == 0:
                signal.pause()
            os.setpgid(child, group)
            os.write(told, b".")
        except OSError:
            pass
os.read(up, 1)
print("up", flush=True)
"""


@pytest.mark.parametrize("rest", ["", "time.sleep(600)"], ids=["exits", "is killed"])
async def test_without_our_init_a_group_ends_what_joins_the_programs_own_for_ever(
    pool: Pool, rest: str
) -> None:
    if pool.cgroups is None:
        pytest.skip("there are no control groups here")
    async with lent(pool, "loose") as sandbox:
        stdio = Stdio.pipes()
        argv = ("python3", "-I", "-c", JOINING + rest)
        running = await sandbox.run(Run(argv, {"PATH": "/usr/bin:/bin"}, LIMITS, stdio))
        assert await until_written(stdio) == b"up\n"
        if rest:
            await sandbox.kill()
        end = await finished(sandbox, running) if not rest else await running.ended
        assert end.cause == ("killed" if rest else None)
        stdio.close()


async def test_without_our_init_what_stays_in_the_group_fails_the_run(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pool.cgroups is None:
        pytest.skip("there are no control groups here")
    async with lent(pool, "direct") as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(type(sandbox._cgroup), "empty", lambda _: False)
            patch.setattr(groups, "CLEAR_TRIES", 2)
            running = await sandbox.run(shell("true", Stdio.null()))
            with pytest.raises(SandboxFailure, match="control group does not die"):
                await finished(sandbox, running)


async def test_without_our_init_a_program_that_resists_is_waited_for_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gave_up = asyncio.Event()

    async def never(_: float, work: Coroutine[Any, Any, object]) -> bool:
        work.close()
        gave_up.set()
        return False

    with pool_of("off") as pool:
        async with lent(pool, "direct") as sandbox:
            await sandbox.run(shell("sleep 600", Stdio.null()))
            driver = sandbox._driver
            assert isinstance(driver, direct.Direct)
            assert driver._process is not None
            with monkeypatch.context() as patch:
                patch.setattr(Spawned, "signal_group", lambda *_: None)
                patch.setattr(direct, "ends_in", never)
                closing = asyncio.create_task(sandbox.close())
                await asyncio.wait_for(gave_up.wait(), 20)
                assert list(pool.folder.workspaces.path.iterdir()) != []
                # Of the group: a shell that has not begun the program yet would leave it behind.
                os.killpg(driver._process.pid, signal.SIGKILL)
                await closing


class Borrowing(Direct):
    """Needs something on the host for each of its programs."""

    name: ClassVar[str] = "borrowing"
    borrowed: ClassVar[list[str]] = []

    @asynccontextmanager
    async def session(self, job: SandboxJob, workspace: Path) -> AsyncIterator[LaunchPlan]:
        self.borrowed.append(job.argv[-1])
        try:
            yield self.plan(job, workspace)
        finally:
            self.borrowed.remove(job.argv[-1])


async def test_what_a_backend_needs_for_its_programs_is_given_back_with_the_sandbox(
    pool: Pool,
) -> None:
    async with lent(pool, "borrowing") as sandbox:
        for script in ("true", "exit 3"):
            await finished(sandbox, await sandbox.run(shell(script, Stdio.null())))
        assert Borrowing.borrowed == ["true", "exit 3"]
    assert Borrowing.borrowed == []


@pytest.mark.parametrize("name", [*BACKENDS])
async def test_a_kill_is_told_from_a_programs_own(
    pool: Pool, need: Callable[[str], str], name: str
) -> None:
    if name != "direct":
        need(name)
    async with lent(pool, name) as sandbox:
        running = await sandbox.run(shell("sleep 600", Stdio.null()))
        await sandbox.kill()
        end = await running.ended
        assert (end.status, end.cause) == (signal.SIGKILL, "killed")
        running = await sandbox.run(shell("exit 137", Stdio.null()))
        end = await finished(sandbox, running)
        assert (end.status, end.cause) == (137 << 8, None)


@pytest.mark.parametrize("name", [*BACKENDS])
async def test_the_end_of_a_run_has_the_limit_that_ended_it(
    need: Callable[[str], str], cgroup: str, name: str
) -> None:
    if name != "direct":
        need(name)
    elif cgroup == "off":
        pytest.skip("nobody limits it")
    greedy = "import sys\nx = []\nwhile True: x.append(bytearray(10_000_000))"
    busy = "while True: pass"
    short = Limits(cpu_time_s=0.5 * SLOWNESS)
    with pool_of(cgroup) as pool:
        if name == "direct" and pool.cgroups is None:
            pytest.skip("nobody limits it")
        async with lent(pool, name) as sandbox:
            for code, limits, cause in (
                (greedy, Limits(memory_bytes=64 * MIB), "memory"),
                (busy, short, "cpu_time"),
                # The usage and the kills of earlier runs do not count for the next one.
                ("import time; time.sleep(0.2)", short, None),
                ("import os; os.kill(os.getpid(), 9)", Limits(memory_bytes=64 * MIB), None),
            ):
                stdio = Stdio.null()
                env = {"PATH": "/usr/bin:/bin"}
                running = await sandbox.run(Run(("python3", "-c", code), env, limits, stdio))
                end = await finished(sandbox, running)
                assert end.cause == cause, code
                if pool.cgroup_level == "cgroup-v2" and cause == "memory":
                    return  # the kernel has killed the init too
                assert end.cpu_time_us is not None
                if limits is short:
                    # A group counts the init and the wrapper too.
                    share = end.cpu_time_us / (short.cpu_time_s * 1e6)
                    assert share > 0.5 if cause == "cpu_time" else share < 1


async def test_what_the_kernel_leaves_of_a_group_is_dead_before_the_end_is_told(
    need: Callable[[str], str], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a memory limit it kills the init too, and parts of the wrapper may die later."""
    need("bwrap")
    if pool.cgroups is None:
        pytest.skip("the kernel kills no group")
    monkeypatch.setattr(Meter, "out_of_memory", True)
    async with lent(pool, "bwrap") as sandbox:
        run = Run(("sleep", "600"), {"PATH": "/usr/bin:/bin"}, Limits(), Stdio.null())
        running = await sandbox.run(run)
        group = next(path for path in pool.cgroups.roots[0].iterdir() if pids(path))
        # Until it is executed the program has the name of the init, which came before it.
        init = min(pid for pid in pids(group) if "init" in Path(f"/proc/{pid}/comm").read_text())
        part = await asyncio.create_subprocess_exec("sleep", "600")
        (group / "cgroup.procs").write_text(str(part.pid))
        os.kill(init, signal.SIGKILL)
        assert (await asyncio.wait_for(running.ended, 20)).cause == "memory"
        assert pids(group) == []
        assert await asyncio.wait_for(part.wait(), 20) == -signal.SIGKILL


async def test_an_init_that_the_kernel_kills_before_the_program_begins_is_no_failure(
    need: Callable[[str], str], pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    if pool.cgroups is None:
        pytest.skip("the kernel kills no group")
    async with lent(pool, "bwrap") as sandbox:
        driver = sandbox._driver
        assert isinstance(driver, Gated)
        os.kill(driver._init_pid, signal.SIGKILL)
        await driver.channel.gone.wait()
        with pytest.raises(SandboxFailure, match="the init ended"):
            await sandbox.run(shell("true", Stdio.null()))
        monkeypatch.setattr(Meter, "out_of_memory", True)
        running = await sandbox.run(shell("true", Stdio.null()))
        assert (await running.ended).cause == "memory"


@pytest.mark.parametrize("name", [*BACKENDS])
async def test_a_kill_that_meets_the_programs_own_end_leaves_nothing_to_wait_for(
    need: Callable[[str], str], pool: Pool, name: str
) -> None:
    if name != "direct":
        need(name)
    async with lent(pool, name) as sandbox:
        running = await sandbox.run(shell("sleep 600 & exit 3", Stdio.null()))
        await running.exited
        await sandbox.kill()
        async with asyncio.timeout(20):
            end = await running.ended
        assert (end.cause, os.waitstatus_to_exitcode(end.status)) == (None, 3)


async def test_a_program_of_one_sandbox_is_started_once_at_a_time(sandbox: Sandbox) -> None:
    first = await sandbox.run(shell("sleep 600", Stdio.null()))
    with pytest.raises(SandboxFailure):
        await sandbox.run(shell("true", Stdio.null()))
    await sandbox.kill()
    assert (await first.ended).cause == "killed"


async def test_two_programs_that_are_started_together_do_not_disturb_each_other(
    sandbox: Sandbox,
) -> None:
    stdio = Stdio.pipes()
    large = {f"A{number}": "x" * 100_000 for number in range(10)}  # fills the init's socket
    first, second = await asyncio.gather(
        sandbox.run(shell("echo first", stdio, LIMITS, **large)),
        sandbox.run(shell("true", Stdio.null())),
        return_exceptions=True,
    )
    assert isinstance(first, Running)
    assert isinstance(second, SandboxFailure)
    assert (await finished(sandbox, first)).status == 0
    assert os.read(stdio._ours["stdout"], 100) == b"first\n"
    stdio.close()


async def test_files_that_come_while_a_program_runs_are_refused(sandbox: Sandbox) -> None:
    running = await sandbox.run(shell("sleep 600", Stdio.null()))
    with pytest.raises(SandboxFailure, match="another program runs"):
        await sandbox.put_files((SourceFile("f", b"x"),), LIMITS)
    await sandbox.kill()
    assert (await running.ended).cause == "killed"
    assert await told(sandbox, "ls") == (0, "")


async def test_a_kill_without_a_program_leaves_the_sandbox_as_it_is(sandbox: Sandbox) -> None:
    await sandbox.kill()
    assert await told(sandbox, "echo one") == (0, "one\n")
    await sandbox.kill()
    assert await told(sandbox, "echo two") == (0, "two\n")


async def test_a_sandbox_is_closed_while_its_program_runs(pool: Pool, backend: str) -> None:
    async with lent(pool, backend) as sandbox:
        running = await sandbox.run(shell("trap '' TERM; sleep 600 & sleep 600", Stdio.null()))
    with pytest.raises(SandboxFailure):
        await running.ended


async def test_a_sandbox_that_two_close_is_released_when_it_is_empty(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    close, remove_tree = Gated.close, workspace.remove_tree
    order: list[str] = []
    removed = threading.Event()

    async def slow(driver: Gated) -> None:
        await asyncio.to_thread(removed.wait, 0.5)  # only a wrong order ends it earlier
        await close(driver)
        order.append("empty")

    def remove(path: Path) -> None:
        order.append("folder")
        removed.set()
        remove_tree(path)

    monkeypatch.setattr(Gated, "close", slow)
    monkeypatch.setattr(workspace, "remove_tree", remove)
    with pool_of("off") as pool:
        async with lent(pool, need("plain")) as sandbox:
            await asyncio.gather(sandbox.close(), sandbox.close())
            assert order == ["empty", "folder"]


async def test_a_group_that_cannot_be_killed_keeps_nothing_else(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_: Cgroup) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if pool.cgroups is None:
        pytest.skip("there are no control groups here")
    told: list[str] = []
    async with lent(pool, "direct") as sandbox:
        sandbox.on_closed = lambda: told.append("closed")
        with monkeypatch.context() as patch:
            patch.setattr(Cgroup, "kill", failing)
            with pytest.raises(OSError, match="Input/output"):
                await sandbox.close()
        assert told == ["closed"]
        assert list(pool.folder.workspaces.path.iterdir()) == []


async def test_programs_of_a_bwrap_sandbox_have_a_loopback_of_their_own(
    pool: Pool, need: Callable[[str], str]
) -> None:
    async with lent(pool, need("bwrap")) as sandbox:
        with await sandbox.listen(7777) as listener:
            assert listener.getsockname() == ("127.0.0.1", 7777)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", 7777))
    async with lent(pool, need("plain")) as sandbox:
        with pytest.raises(SandboxFailure, match="shares the host's network"):
            await sandbox.listen(7777)


# -- paths of the workspace --------------------------------------------------------------------


async def opened(sandbox: Sandbox, path: str, flags: int = os.O_RDONLY) -> bytes:
    fd = await sandbox.open_path(path, flags)
    with os.fdopen(fd, "rb") as file:
        return file.read()


async def test_a_file_is_read_and_written_from_outside(sandbox: Sandbox) -> None:
    await sandbox.put_files((SourceFile("a/b", b"one"),), LIMITS)
    assert await opened(sandbox, "a/b") == b"one"
    fd = await sandbox.open_path("a/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    assert not os.get_inheritable(fd)
    os.write(fd, b"two")
    os.close(fd)
    assert await told(sandbox, "cat a/new; stat -c %a a/new; echo three >made") == (0, "two640\n")
    assert await opened(sandbox, "made") == b"three\n"


async def test_a_file_is_opened_while_a_program_runs(sandbox: Sandbox) -> None:
    stdio = Stdio.pipes()
    running = await sandbox.run(shell("echo here >f; echo up; sleep 600", stdio))
    await until_written(stdio)
    assert await opened(sandbox, "f") == b"here\n"
    assert {entry.path for entry in (await sandbox.list_files()).entries} == {"f"}
    await sandbox.kill()
    await running.ended
    stdio.close()


PLANTED = """
echo secret >inside; mkdir folder closed
ln -s inside link; ln -s /etc etc; ln -s /etc/passwd passwd; ln -s .. up; ln -s folder other
ln -s /proc/self/fd fds; ln -s link folder/twice
mkfifo pipe; chmod 0 closed
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'
"""


REFUSED = (
    ("nothing", os.O_RDONLY, errno.ENOENT),
    ("../inside", os.O_RDONLY, errno.EXDEV),
    ("folder/../../inside", os.O_RDONLY, errno.EXDEV),
    ("/etc/passwd", os.O_RDONLY, errno.EXDEV),
    ("/", os.O_RDONLY | os.O_DIRECTORY, errno.EXDEV),
    ("..", os.O_RDONLY | os.O_DIRECTORY, errno.EXDEV),
    ("", os.O_RDONLY, errno.ENOENT),
    ("link", os.O_RDONLY, errno.ELOOP),
    ("link", os.O_WRONLY | os.O_CREAT, errno.ELOOP),
    ("link", os.O_WRONLY | os.O_TRUNC, errno.ELOOP),
    ("passwd", os.O_RDONLY, errno.ELOOP),
    ("etc/passwd", os.O_RDONLY, errno.ELOOP),
    ("up", os.O_RDONLY | os.O_DIRECTORY, errno.ELOOP),
    ("other/new", os.O_WRONLY | os.O_CREAT, errno.ELOOP),
    ("fds/0", os.O_RDONLY, errno.ELOOP),
    ("folder/twice", os.O_RDONLY, errno.ELOOP),
    ("folder", os.O_RDONLY, errno.EISDIR),
    ("inside", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
    ("pipe", os.O_RDONLY, errno.EINVAL),
    ("pipe", os.O_WRONLY, errno.ENXIO),
    ("sock", os.O_RDONLY, errno.ENXIO),
    ("closed", os.O_RDONLY | os.O_DIRECTORY, errno.EACCES),
    ("inside", os.O_PATH, errno.EINVAL),
    (".", os.O_WRONLY | os.O_TMPFILE, errno.EINVAL),
    ("x/" * 2047 + "x", os.O_RDONLY, errno.ENOENT),
    ("x/" * 2048, os.O_RDONLY, errno.ENAMETOOLONG),
    ("x" * 256, os.O_RDONLY, errno.ENAMETOOLONG),
    ("x/" * 3000, os.O_RDONLY, errno.ENAMETOOLONG),
    ("x" * (20 * MIB), os.O_RDONLY, errno.ENAMETOOLONG),
)
"""Paths, the flags with which they are opened, and the answer."""


async def test_nothing_else_is_opened(pool: Pool, backend: str) -> None:
    async with lent(pool, backend) as sandbox:
        assert await told(sandbox, PLANTED) == (0, "")
        for path, flags, number in REFUSED:
            with pytest.raises(OSError) as refused:
                os.close(await sandbox.open_path(path, flags))
            answers = errno.errorcode[refused.value.errno or 0], errno.errorcode[number]
            assert answers[0] == answers[1], path[:100]
            # And the next request is still answered.
            assert await opened(sandbox, "inside") == b"secret\n"


@pytest.fixture
def mounting() -> Iterator[subprocess.Popen[bytes]]:
    """A program that mounts and unmounts all the time."""
    mounts = "while :; do mount -t tmpfs none /mnt && umount /mnt || exit 1; done"
    storm = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f"echo up; {mounts}"]
    with subprocess.Popen(storm, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        with contextlib.suppress(
            ChildProcessError
        ):  # what it was running is ours now, if anybody's
            while True:
                os.waitpid(-process.pid, 0)


@pytest.mark.slow
async def test_a_path_with_two_dots_is_opened_while_the_host_mounts(
    sandbox: Sandbox, mounting: subprocess.Popen[bytes]
) -> None:
    """The kernel then cannot say for sure where ``..`` leads, and asks to try again."""
    assert (await told(sandbox, "mkdir folder; echo here >file"))[0] == 0
    for _ in range(3000):
        os.close(await sandbox.open_path("folder/../folder/../file", os.O_RDONLY))
    assert mounting.poll() is None


async def test_what_cannot_be_a_path_is_not_asked_for(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="null"):
        await sandbox.open_path("a\0b", os.O_RDONLY)
    assert await sandbox.list_files() == Listing([], complete=True)


@pytest.mark.slow
async def test_no_link_is_followed_that_comes_and_goes(pool: Pool, backend: str) -> None:
    """A job replaces the requested folder by a link and back, all the time."""
    script = """
        mkdir real; echo inside >real/passwd; ln -s /etc link; echo up
        while :; do mv -T real at; mv -T at real; mv -T link at; mv -T at link; done
    """
    async with lent(pool, backend) as sandbox:
        stdio = Stdio.pipes()
        running = await sandbox.run(shell(script, stdio))
        await until_written(stdio)
        seen, refused = set(), set()
        for _ in range(300):
            try:
                seen.add(await opened(sandbox, "at/passwd"))
            except OSError as error:
                refused.add(error.errno)
        assert seen <= {b"inside\n"}
        assert refused <= {errno.ELOOP, errno.ENOENT, errno.EAGAIN}
        await sandbox.kill()
        await running.ended
        stdio.close()


async def test_one_that_gives_up_its_question_gets_nobody_elses_answer(sandbox: Sandbox) -> None:
    await sandbox.put_files([SourceFile(str(n), b"%d" % n) for n in range(10)], LIMITS)
    before = descriptors()
    for _ in range(5):
        asking = [asyncio.create_task(opened(sandbox, str(n))) for n in range(10)]
        await asyncio.sleep(0)
        for given_up in asking[::2]:
            given_up.cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert answers[1::2] == [b"%d" % n for n in range(1, 10, 2)]
    assert await opened(sandbox, "0") == b"0"
    assert descriptors() == before


# -- what is used --------------------------------------------------------------------------------


async def test_what_is_used_so_far_is_told(
    need: Callable[[str], str], cgroup: str, backend: str
) -> None:
    with pool_of(cgroup) as pool:
        async with lent(pool, backend) as sandbox:
            await sandbox.put_files((SourceFile("f", bytes(3 * MIB)),), LIMITS)
            use = await sandbox.use()
            assert 3 * MIB <= (use.disk_bytes or 0) < 5 * MIB
            busy = "import time\nwhile time.process_time() < 0.3: pass\n"
            held = "x = b'x' * 40_000_000\nprint('up', flush=True)\ntime.sleep(600)"
            for number in (1, 2):
                stdio = Stdio.pipes()
                env = {"PATH": "/usr/bin:/bin"}
                code = ("python3", "-c", busy + held)
                running = await sandbox.run(Run(code, env, LIMITS, stdio))
                await until_written(stdio)
                use = await sandbox.use()
                assert (use.cpu_time_us or 0) >= number * 300_000
                assert (use.memory_bytes or 0) >= 40_000_000
                await sandbox.kill()
                await running.ended
                stdio.close()
            after = await sandbox.use()
            assert (after.cpu_time_us or 0) >= (use.cpu_time_us or 0)
            assert (after.memory_bytes or 0) < 40_000_000


async def test_what_the_present_run_uses_is_told_apart(
    need: Callable[[str], str], cgroup: str, backend: str
) -> None:
    with pool_of(cgroup) as pool:
        async with lent(pool, backend) as sandbox:
            burn = "python3 -c 'import time\nwhile time.process_time() < 0.5: pass'"
            assert await told(sandbox, burn) == (0, "")
            assert await sandbox.use_of_run() is None
            stdio = Stdio.pipes()
            script = "sleep 60 & sleep 60 & echo up; wait"
            env = {"PATH": "/usr/bin:/bin"}
            running = await sandbox.run(Run(("sh", "-c", script), env, LIMITS, stdio))
            await until_written(stdio)
            use = await sandbox.use_of_run()
            assert use is not None
            assert 0 <= (use.cpu_time_us or 0) < 500_000
            assert 0 < (use.memory_bytes or 0) < 40_000_000
            assert (use.disk_bytes, use.processes) == (None, 3)
            await sandbox.kill()
            await running.ended
            assert await sandbox.use_of_run() is None
            stdio.close()


async def test_the_cache_of_files_is_no_memory_that_a_run_uses(pool: Pool) -> None:
    if pool.cgroups is None:
        pytest.skip("only a group counts it")
    async with lent(pool, "plain") as sandbox:
        stdio = Stdio.pipes()
        script = f"head -c {60 * MIB} /dev/zero >file; cat file >/dev/null; echo up; sleep 60"
        limits = replace(LIMITS, disk_bytes=100 * MIB, memory_bytes=200 * MIB)
        running = await sandbox.run(
            Run(("sh", "-c", script), {"PATH": "/usr/bin:/bin"}, limits, stdio)
        )
        await until_written(stdio)
        use = await sandbox.use_of_run()
        assert use is not None
        assert 0 < (use.memory_bytes or 0) < 40 * MIB
        await sandbox.kill()
        await running.ended
        stdio.close()


@pytest.mark.parametrize("name", ["bwrap", "templated", "firejail"])
async def test_without_a_group_what_is_in_mounts_of_its_own_counts_as_memory(
    need: Callable[[str], str], name: str
) -> None:
    need(name)
    with pool_of("off") as pool:
        async with lent(pool, name) as sandbox:
            assert await told(sandbox, f"head -c {20 * MIB} /dev/zero >/tmp/file") == (0, "")
            assert ((await sandbox.use()).memory_bytes or 0) >= 20 * MIB


async def test_without_our_init_only_a_group_tells_what_is_used() -> None:
    for cgroup in ("auto", "off"):
        with pool_of(cgroup) as pool:
            async with lent(pool, "direct") as sandbox:
                await told(sandbox, "true")
                use = await sandbox.use()
                assert use.disk_bytes is None
                assert (use.cpu_time_us is None) == (pool.cgroups is None)
                stdio = Stdio.pipes()
                running = await sandbox.run(
                    Run(("sleep", "60"), {"PATH": "/usr/bin:/bin"}, LIMITS, stdio)
                )
                of_run = await sandbox.use_of_run()
                assert of_run is not None
                figures = (of_run.cpu_time_us, of_run.memory_bytes, of_run.processes)
                assert all((figure is None) == (pool.cgroups is None) for figure in figures)
                await sandbox.kill()
                await running.ended
                stdio.close()
                with pytest.raises(SandboxFailure):
                    await sandbox.open_path("f", os.O_RDONLY)
                with pytest.raises(SandboxFailure):
                    await sandbox.list_files()


# -- the pool --------------------------------------------------------------------------------------


def test_a_shape_is_the_key_of_a_pool() -> None:
    shape = Shape("bwrap", LIMITS, read_only=("/opt",))
    assert {shape: 1}[Shape("bwrap", Limits(wall_time_s=60), read_only=("/opt",))] == 1
    assert shape != Shape("bwrap", LIMITS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to lend")
async def test_each_sandbox_has_a_user_of_its_own_and_trials_another(pool: Pool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for for_trial in (False, False, True):
            opened.append(await pool.lend(Shape("plain", LIMITS), for_trial=for_trial))
            stack.push_async_callback(opened[-1].close)
        users = {sandbox.identity for sandbox in opened}
        assert len(users) == 3
        assert None not in users
        assert not any(sandbox.of_root for sandbox in opened)


async def test_a_sandbox_that_does_not_open_leaves_nothing(tmp_path: Path) -> None:
    adopt_orphans()
    broken = Bwrap(path=str(tmp_path / "nothing"))
    with open_pool(
        {"broken": broken},
        state_dir="",
        cgroup="auto",
        cpu_weight=12,
        uid_base=60706,
        places=1,
        users=1,
        strict_filter=False,
    ) as pool:
        processes, files = descendants(), descriptors()
        for _ in range(3):
            with pytest.raises(SandboxFailure, match="nothing"):
                await pool.lend(Shape("broken", LIMITS))
        assert (descendants(), descriptors()) == (processes, files)
        for root in pool.cgroups.roots if pool.cgroups else ():
            assert list(root.glob("*/")) == []


class Mute(Plain):
    """Starts another program than the init, which ignores standard input."""

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        return LaunchPlan(("/bin/sleep", "600"), start_as=job.identity)


@pytest.mark.parametrize("times", [1, 2])
async def test_opening_that_is_given_up_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setitem(BACKENDS, "mute", Mute())
    adopt_orphans()
    with pool_of("off") as pool:
        before = descendants()
        opening = asyncio.create_task(pool.lend(Shape("mute", LIMITS)))
        while descendants() == before:
            await asyncio.sleep(0.01)
        for _ in range(times):
            opening.cancel()
            await asyncio.wait({opening}, timeout=0.1)
        await asyncio.wait({opening}, timeout=20)
        assert opening.cancelled()
        async with asyncio.timeout(20):
            while descendants() != before:
                await asyncio.sleep(0.01)

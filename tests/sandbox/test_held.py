"""A program is started before its job: in every sandbox of ours, with and without groups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Limits, SourceFile
from streamer.sandbox.drivers.protocol import GROUP_MEMORY
from streamer.sandbox.meter import Meter
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit, Run, RunEnd, Shape
from streamer.sandbox.stdio import Stdio
from streamer.testing.running import SLOWNESS
from tests.running import descendants, descriptors
from tests.sandbox.facts import FACTS, in_common, of_any_two
from tests.sandbox.init_peer import waits_ms
from tests.sandbox.test_sandbox import lent, pool_of

MIB = 1024 * 1024
LIMITS = Limits(wall_time_s=60)
ENV = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
PYTHON = ("python3", "main.py")
WAITS = ("python3", "-I", "-S", "-c", "import posix; posix.read(0, 1); posix.write(1, b'read')")


@pytest.fixture(params=["plain", "bwrap", "templated"])
def name(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    """Return each kind of sandbox that works here, in turn; "templated" is bwrap's."""
    kind = str(request.param)
    need("bwrap" if kind == "templated" else kind)
    return kind


@pytest.fixture(params=["auto", "off"], ids=["groups", "no-groups"])
def cgroup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(name: str, cgroup: str, limits: Limits = LIMITS) -> AsyncIterator[Sandbox]:
    """Open a sandbox, and check that it leaves nothing when it is closed."""
    with pool_of(cgroup) as pool:
        async with lent(pool, name, limits) as sandbox:
            yield sandbox


def run_of(
    sandbox: Sandbox,
    argv: tuple[str, ...],
    stdio: Stdio,
    env: Mapping[str, str] = ENV,
    limits: Limits = LIMITS,
) -> Run:
    return Run(argv, {**env, "HOME": sandbox.home}, limits, stdio)


async def hold(
    sandbox: Sandbox,
    argv: tuple[str, ...] = PYTHON,
    env: Mapping[str, str] = ENV,
    limits: Limits = LIMITS,
) -> None:
    """Start a program, and wait until it is held."""
    await sandbox.hold(run_of(sandbox, argv, Stdio.pipes(with_input=True), env, limits))
    async with asyncio.timeout(20):
        await asyncio.wait({sandbox.held})
    assert sandbox.held.exception() is None
    assert sandbox.waits


async def finish(
    sandbox: Sandbox,
    argv: tuple[str, ...] = PYTHON,
    env: Mapping[str, str] = ENV,
    limits: Limits = LIMITS,
    given: bytes | None = None,
) -> tuple[RunEnd, str]:
    """Run a program as a job does; return its end, and what it has written."""
    with contextlib.closing(sandbox.stdio(with_input=given is not None)) as stdio:
        if given is not None:
            os.write(stdio._ours["stdin"], given)
            stdio.end_input()
        running = await sandbox.run(run_of(sandbox, argv, stdio, env, limits))
        async with asyncio.timeout(20):
            await asyncio.wait({running.exited})
            sandbox.end_rest()
            end = await running.ended
        written = []
        for stream in ("stdout", "stderr"):
            with contextlib.suppress(BlockingIOError):
                written.append(os.read(stdio._ours[stream], 65536).decode())
        return end, "".join(written)


async def put(sandbox: Sandbox, code: str, limits: Limits = LIMITS) -> None:
    await sandbox.put_files((SourceFile("main.py", code.encode()),), limits)


def program_of(before: Mapping[int, str], called: str = "python3") -> int:
    """Return the process id of the one program that was started since."""
    (pid,) = (
        pid for pid, name in descendants().items() if pid not in before and name.startswith(called)
    )
    return pid


async def test_it_runs_the_file_that_its_job_brings(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await hold(sandbox)
        await put(
            sandbox,
            "import os, sys\n"
            "print(sys.argv, __name__, __file__ == os.path.abspath('main.py'), os.listdir())\n"
            "print([line for line in open('/proc/self/status') if 'Tracer' in line])\n"
            "print(sys.stdin.read())\n"
            "sys.exit(7)",
        )
        end, out = await finish(sandbox, given=b"given")
        assert (end.cause, os.waitstatus_to_exitcode(end.status)) == (None, 7)
        assert out == ("['main.py'] __main__ True ['main.py']\n['TracerPid:\\t0\\n']\ngiven\n")


async def test_it_goes_on_at_once_if_its_job_is_there_first(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await sandbox.hold(run_of(sandbox, PYTHON, Stdio.pipes(with_input=True)))
        await put(sandbox, "print('up')")
        end, out = await finish(sandbox)
        assert (end.status, out) == (0, "up\n")


async def test_it_is_one_program_of_several(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        for text in ("one", "two"):
            await hold(sandbox)
            await put(sandbox, f"print({text!r})")
            assert (await finish(sandbox))[1] == f"{text}\n"
            assert (await finish(sandbox))[1] == f"{text}\n"


async def test_what_it_has_used_before_counts_and_the_time_does_not(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        opened_us = (await sandbox.use()).cpu_time_us
        await hold(sandbox)
        held_us = (await sandbox.use()).cpu_time_us
        assert opened_us is not None
        assert held_us is not None
        await put(sandbox, "pass")
        began = time.monotonic()
        end, _ = await finish(sandbox)
        assert end.cpu_time_us is not None
        assert end.peak_memory_bytes
        assert end.cpu_time_us > 0.9 * (held_us - opened_us) > 0
        assert 0 < end.wall_us <= (time.monotonic() - began) * 1e6


@pytest.mark.parametrize(
    "changed",
    [
        {"argv": ("python3", "main.py", "more")},
        {"env": {**ENV, "MORE": "1"}},
        {"env": dict(reversed(ENV.items()))},
        {"limits": replace(LIMITS, open_files=100)},
    ],
    ids=["arguments", "variables", "their order", "limits"],
)
async def test_another_program_is_started_in_its_place(
    changed: dict[str, object], need: Callable[[str], str]
) -> None:
    need("bwrap")
    tell = "import os, resource, sys; print(sys.argv[1:], [*os.environ], {})".format(
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    )
    async with opened("bwrap", "auto") as sandbox:
        await put(sandbox, tell)
        _, expected = await finish(sandbox, **changed)  # type: ignore[arg-type]
        before = descendants()
        await hold(sandbox)
        held = program_of(before)
        end, out = await finish(sandbox, **changed)  # type: ignore[arg-type]
        assert (end.status, out) == (0, expected)
        with pytest.raises(ProcessLookupError):
            os.kill(held, 0)


async def test_it_has_read_and_written_nothing_before_its_job(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await hold(sandbox, WAITS)
        with pytest.raises(BlockingIOError):
            os.read(sandbox._waiting.run.stdio._ours["stdout"], 1)  # type: ignore[union-attr]
        assert (await finish(sandbox, WAITS, given=b"x"))[1] == "read"


@pytest.mark.parametrize(
    "command",
    [
        "sleep 600 & echo $! >pid; read x; echo got $x; kill $(cat pid)",
        "echo first; exec cat",
        "cd /tmp; echo x >y; cat y; rm y; cat",
        "exec python3 -c 'import os; print(os.read(0, 9))'",
    ],
)
async def test_a_shell_does_nothing_before_its_job(
    need: Callable[[str], str], command: str
) -> None:
    need("bwrap")
    argv = ("sh", "-c", command)
    async with opened("bwrap", "auto") as sandbox:
        cold = await finish(sandbox, argv, given=b"word\n")
        before = descendants()
        await hold(sandbox, argv)
        assert len([pid for pid in descendants() if pid not in before]) == 1
        assert [entry.path for entry in (await sandbox.list_files()).entries] in ([], ["pid"])
        warm = await finish(sandbox, argv, given=b"word\n")
        assert warm[1] == cold[1]
        assert (warm[0].status, warm[0].cause) == (cold[0].status, cold[0].cause)


async def test_its_pipes_are_closed_if_its_job_has_others(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with opened("bwrap", "off") as sandbox:
        before = descriptors()
        await hold(sandbox, WAITS)
        with contextlib.closing(Stdio.pipes()) as stdio:
            running = await sandbox.run(run_of(sandbox, ("true",), stdio))
            async with asyncio.timeout(20):
                await running.ended
        assert descriptors() == before


async def test_one_that_has_died_is_started_again(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        before = descendants()
        await hold(sandbox)
        os.kill(program_of(before), signal.SIGKILL)
        async with asyncio.timeout(20):
            await asyncio.wait({sandbox._driver.exited})
        assert not sandbox.waits
        await put(sandbox, "print('again')")
        end, out = await finish(sandbox)
        assert (end.status, end.cause, out) == (0, None, "again\n")


async def test_a_sandbox_is_closed_with_the_program_that_it_holds(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await hold(sandbox)
        with pytest.raises(SandboxFailure):
            await sandbox.hold(run_of(sandbox, PYTHON, Stdio.null()))


async def test_a_kill_before_it_is_released_is_the_end_of_its_run(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await hold(sandbox, WAITS)
        stdio = sandbox.stdio(with_input=True)
        running = await sandbox.run(run_of(sandbox, WAITS, stdio))
        await sandbox.kill()
        async with asyncio.timeout(20):
            end = await running.ended
        assert (end.status, end.cause) == (signal.SIGKILL, "killed")
        stdio.close()


GREEDY = "x = []\nwhile True: x.append(bytearray(10_000_000))"
FILLS = """
import time
while True:
    try:
        with open("file", "ab") as file:
            file.write(bytes(2**20))
    except OSError:
        time.sleep(0.1)
"""


@pytest.mark.parametrize("code", [GREEDY, "while True: pass"], ids=["memory", "CPU time"])
async def test_its_limits_hold_before_its_job(name: str, cgroup: str, code: str) -> None:
    few = Limits(wall_time_s=60, memory_bytes=64 * MIB, cpu_time_s=0.5 * SLOWNESS)
    argv = ("python3", "-I", "-S", "-c", code)
    async with opened(name, cgroup, few) as sandbox:
        await sandbox.hold(run_of(sandbox, argv, Stdio.pipes(with_input=True), limits=few))
        async with asyncio.timeout(30):
            await asyncio.wait({sandbox.held})
        assert sandbox.held.exception() is not None
        assert not sandbox.waits


@pytest.mark.parametrize(
    ("code", "cause"),
    [(GREEDY, "memory"), ("while True: pass", "cpu_time"), (FILLS, "disk")],
    ids=["memory", "CPU time", "disk"],
)
async def test_its_limits_hold_afterwards(name: str, cgroup: str, code: str, cause: str) -> None:
    few = Limits(wall_time_s=60, memory_bytes=64 * MIB, cpu_time_s=SLOWNESS, disk_bytes=8 * MIB)
    async with opened(name, cgroup, few) as sandbox:
        await hold(sandbox, limits=few)
        await put(sandbox, code, few)
        end, _ = await finish(sandbox, limits=few)
        assert end.cause == cause


async def test_files_that_do_not_fit_are_refused_as_ever(name: str, cgroup: str) -> None:
    few = Limits(wall_time_s=60, disk_bytes=65536)
    async with opened(name, cgroup, few) as sandbox:
        await hold(sandbox, limits=few)
        with pytest.raises(FilesDoNotFit):
            await sandbox.put_files([SourceFile(f"f{n}", b"x" * 200) for n in range(600)], few)
        await put(sandbox, "import os; print(os.listdir())", few)
        end, out = await finish(sandbox, limits=few)
        assert (end.status, out) == (0, "['main.py']\n")


@pytest.mark.parametrize("for_memory", [True, False])
async def test_files_beside_it_that_are_too_much_end_the_run_for_memory(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, *, for_memory: bool
) -> None:
    need("bwrap")
    async with opened("bwrap", "auto") as sandbox:
        if sandbox._cgroup is None:
            pytest.skip("there are no control groups here")
        await hold(sandbox)
        # As in version 2, which kills the whole group.
        monkeypatch.setattr(Meter, "out_of_memory", for_memory)
        os.kill(sandbox._driver._init_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        if for_memory:
            await put(sandbox, "pass")
            end, out = await finish(sandbox)
            assert (end.status, end.cause, out) == (signal.SIGKILL, "memory", "")
        else:
            with pytest.raises(SandboxFailure):
                await put(sandbox, "pass")


async def test_a_proxy_may_listen_beside_it(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with opened("bwrap", "auto") as sandbox:
        await hold(sandbox)
        with await sandbox.listen(18080):
            await put(
                sandbox, "import socket; socket.create_connection(('127.0.0.1', 18080), 5).close()"
            )
            end, out = await finish(sandbox)
            assert (end.status, out) == (0, "")


@pytest.mark.parametrize("name", ["bwrap", "templated"])
async def test_two_have_nothing_in_common(need: Callable[[str], str], name: str) -> None:
    need("bwrap")
    said = []
    with pool_of() as pool:
        for _ in range(2):
            sandbox = await pool.lend(Shape(name, LIMITS))
            assert sandbox.from_template == (name == "templated")
            await hold(sandbox)
            await put(sandbox, FACTS)
            end, text = await finish(sandbox)
            await sandbox.close()
            assert end.status == 0, text
            said.append(text)
        assert len(pool.templates.pids) in (0, 2)  # of one template, and its wrapper
        await pool.close()
    assert in_common(said) <= of_any_two()


async def test_firejail_lets_nobody_be_traced(need: Callable[[str], str]) -> None:
    need("firejail")
    async with opened("firejail", "auto") as sandbox:
        await sandbox.hold(run_of(sandbox, PYTHON, Stdio.pipes(with_input=True)))
        async with asyncio.timeout(20):
            await asyncio.wait({sandbox.held})
        assert "the init cannot hold a program" in str(sandbox.held.exception())
        await put(sandbox, "print('started')")
        assert (await finish(sandbox))[1] == "started\n"


async def test_without_our_init_none_is_held() -> None:
    with pool_of() as pool:
        async with lent(pool, "direct") as sandbox:
            with pytest.raises(SandboxFailure, match="without our init"):
                await sandbox.hold(run_of(sandbox, PYTHON, Stdio.pipes()))


QUIET = """
import _signal, _thread, posix
def go_on(*_):
    posix.read(0, 1)
    while True:
        pass
_signal.signal(_signal.SIGWINCH, go_on)
lock = _thread.allocate_lock()
lock.acquire()
lock.acquire()
"""
RARE_MS = 200
"""Between two looks while anything happens there is less (``init/watch.c``)."""


async def test_what_it_uses_is_looked_at_soon_after_its_job_has_come(
    need: Callable[[str], str],
) -> None:
    """What the init knows is older than the files of the job."""
    need("bwrap")
    limits = Limits(wall_time_s=60, cpu_time_s=60)
    argv = ("python3", "-I", "-S", "-c", QUIET)
    async with opened("templated", "auto", limits) as sandbox:
        driver: Any = sandbox._driver
        if not driver._run_flags & GROUP_MEMORY:
            pytest.skip("otherwise the init looks often")
        init, before = driver._wrapper.pid, descendants()
        await sandbox.hold(run_of(sandbox, argv, Stdio.pipes(with_input=True), limits=limits))
        async with asyncio.timeout(20):
            while waits_ms(init) < RARE_MS:  # it does nothing, and is not held
                await asyncio.sleep(0)
            while not sandbox.held.done():
                os.kill(program_of(before), signal.SIGWINCH)
                await asyncio.sleep(0.01)
        assert waits_ms(init) == -1
        with contextlib.closing(sandbox.stdio(with_input=False)) as stdio:
            await sandbox.run(run_of(sandbox, argv, stdio, limits=limits))
            assert 0 <= waits_ms(init) < RARE_MS
            await sandbox.kill()

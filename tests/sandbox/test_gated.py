"""What a sandbox with our init does around the life of that init."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers import gated, protocol
from streamer.sandbox.drivers.channel import InitChannel
from streamer.sandbox.drivers.gated import Gated, opened_ends
from streamer.sandbox.drivers.spawn import spawn
from streamer.sandbox.drivers.stopped import StopWatch
from streamer.sandbox.drivers.template import Child
from streamer.sandbox.pool import Pool
from streamer.sandbox.stdio import Stdio
from streamer.spi import LaunchPlan
from tests.running import descriptors
from tests.sandbox.test_sandbox import finished, lent, pool_of, shell


@pytest.fixture(params=["bwrap", "templated"])
def backend(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    need("bwrap")
    return str(request.param)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with pool_of() as pool:
        yield pool


async def test_a_kill_without_an_answer_ends_the_run_as_any_other(
    pool: Pool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool, backend) as sandbox:
        running = await sandbox.run(shell("sleep 600", Stdio.null()))
        monkeypatch.setattr(InitChannel, "kill", lambda _: False)  # its socket is full
        await sandbox.kill()
        end = await asyncio.wait_for(running.ended, 20)
        assert (end.status, end.cause) == (signal.SIGKILL, "killed")
        assert end.wall_us > 0


async def test_the_end_of_an_init_is_heard_once(
    pool: Pool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []
    # The first process that a template has made is the init.
    watching: type = Gated if backend == "bwrap" else Child
    name = "_init_has_ended" if backend == "bwrap" else "_has_ended"
    hear = getattr(watching, name)

    def hearing(watcher: object) -> None:
        heard.append(watcher)
        hear(watcher)

    monkeypatch.setattr(watching, name, hearing)
    async with lent(pool, backend) as sandbox:
        driver = sandbox._driver
        assert isinstance(driver, Gated)
        os.kill(driver._init_pid, signal.SIGKILL)
        await asyncio.wait({driver._init_ended}, timeout=20)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(heard) == 1


async def test_an_init_is_watched_while_a_program_runs_and_no_longer(
    pool: Pool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches: list[StopWatch] = []

    class Watch(StopWatch):
        def __init__(self, pid: int) -> None:
            super().__init__(pid)
            watches.append(self)

    monkeypatch.setattr(gated, "StopWatch", Watch)
    monkeypatch.setattr(protocol, "FIRST", 0)  # as if it were not pid 1
    async with lent(pool, backend) as sandbox:
        for _ in range(2):
            await finished(sandbox, await sandbox.run(shell("true", Stdio.null())))
        assert [watch._timer.cancelled() for watch in watches] == [True, True]


async def test_all_that_a_wrapper_says_is_kept() -> None:
    before = descriptors()
    with opened_ends() as ends:
        wrapper = spawn(
            ("/bin/sh", "-c", "printf one >&2; read line; printf two >&2"),
            env={},
            cwd="/",
            stdin=ends.control,
            stdout=ends.stderr,
            stderr=ends.stderr,
        )
        driver = Gated(LaunchPlan(("sh",)), ends, wrapper, walk_disk=False, by_group=0)
    async with asyncio.timeout(20):
        while driver.said() != "one":
            await asyncio.sleep(0)
        driver.channel._sock.send(b"\n")
        assert await wrapper.wait() == 0
    assert driver.said() == "onetwo"
    await driver.close()
    assert driver.said() == "onetwo"
    assert descriptors() == before


async def test_one_that_resists_is_not_killed_once_more_at_the_end(
    pool: Pool,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def never(*_: object) -> bool:
        return False

    async with lent(pool, backend) as sandbox:
        await sandbox.run(shell("sleep 600", Stdio.null()))
        with monkeypatch.context() as patch:
            patch.setattr(InitChannel, "kill", lambda _: False)
            patch.setattr(Gated, "_gone", never)
            with pytest.raises(SandboxFailure, match="does not die"):
                await sandbox.kill()
            await sandbox.close()
    assert "does not die" not in caplog.text


async def test_one_is_closed_only_when_pid_1_of_its_wrapper_has_ended(
    pool: Pool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in firejail, where it is the wrapper's own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(_: int) -> int:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[0].pid

    monkeypatch.setattr(protocol, "FIRST", 0)
    monkeypatch.setattr(gated, "first_above", start)
    async with lent(pool, backend) as sandbox:
        driver = sandbox._driver
        assert isinstance(driver, Gated)
        closing = asyncio.create_task(sandbox.close())
        await asyncio.wait({driver._wrapper.ended, driver._init_ended}, timeout=20)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done()
        started[0].kill()
        await closing
        started[0].wait()

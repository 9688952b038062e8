"""Look whether a process is stopped, whatever its name is."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.sandbox.drivers import stopped
from streamer.sandbox.drivers.stopped import StopWatch


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process whose name looks like the end of it, and its state."""
    program = tmp_path / "a) T (b"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([str(program), "600"]) as started:
        while Path(f"/proc/{started.pid}/comm").read_text() != "a) T (b\n":
            pass  # it has not executed yet
        yield started
        started.kill()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let it look all the time, and return at what."""
    seen: list[str] = []
    look = stopped._state

    def looked(stat: str) -> str:
        seen.append(stat)
        return look(stat)

    monkeypatch.setattr(stopped, "LOOK_S", 0.001)
    monkeypatch.setattr(stopped, "_state", looked)
    return seen


async def times(looks: list[str], pid: int, count: int) -> None:
    """Wait until a process was looked at so many times more."""
    count += looks.count(f"/proc/{pid}/stat")
    async with asyncio.timeout(20):
        while looks.count(f"/proc/{pid}/stat") < count:
            await asyncio.sleep(0)


async def test_only_a_process_that_is_stopped_counts_as_such(
    process: subprocess.Popen[bytes], looks: list[str]
) -> None:
    watch = StopWatch(process.pid)
    await times(looks, process.pid, 5)
    assert not watch.stopped.done()
    os.kill(process.pid, signal.SIGSTOP)
    await asyncio.wait_for(watch.stopped, 20)
    watch.close()


async def test_one_that_has_ended_is_not_stopped_and_no_failure(
    process: subprocess.Popen[bytes], looks: list[str]
) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    process.kill()
    process.wait()
    watch = StopWatch(process.pid)
    await times(looks, process.pid, 3)
    assert not watch.stopped.done()
    assert failures == []
    watch.close()


async def test_one_that_is_closed_looks_no_more(
    process: subprocess.Popen[bytes], looks: list[str]
) -> None:
    closed, other = StopWatch(process.pid), StopWatch(os.getpid())
    await times(looks, process.pid, 5)
    closed.close()
    before = looks.count(f"/proc/{process.pid}/stat")
    await times(looks, os.getpid(), 20)
    assert looks.count(f"/proc/{process.pid}/stat") == before
    other.close()

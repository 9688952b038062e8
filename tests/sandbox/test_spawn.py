"""A started process: its process group ends with it, and its exit code is reported."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from streamer.sandbox.drivers.spawn import Spawned, _lives, spawn
from tests.running import adopt_orphans, descendants


def start(script: str, *, keep_group: bool = False) -> tuple[Spawned, int]:
    """Start a shell script; return it and what reads its output."""
    reading, writing = os.pipe()
    null = subprocess.DEVNULL
    process = spawn(
        ("/bin/sh", "-c", script),
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        stdin=null,
        stdout=writing,
        stderr=null,
        keep_group=keep_group,
    )
    os.close(writing)
    return process, reading


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 137", 137), ("kill -9 $$", -9), ("kill $$", -15)]
)
async def test_its_exit_code_tells_a_signal_from_a_number(script: str, code: int) -> None:
    before = time.monotonic()
    process, reading = start(script)
    assert await process.wait() == code
    assert process.exit_code == code
    assert before < process.ended_at <= time.monotonic()
    os.close(reading)


async def test_what_it_leaves_in_its_group_ends_with_it() -> None:
    adopt_orphans()
    process, reading = start("sleep 600 & exit 3")
    assert await process.wait() == 3
    assert os.read(reading, 1) == b""  # the pipe's last holder is dead
    os.close(reading)


async def test_a_group_that_is_kept_ends_when_it_is_reaped() -> None:
    adopt_orphans()
    process, reading = start("sleep 600 & exit 3", keep_group=True)
    assert await process.wait() == 3
    os.kill(process.pid, 0)  # its number is still its own
    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):  # what it left is alive
        os.read(reading, 1)
    process.signal_group(signal.SIGCONT)
    process.reap()
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    process.reap()
    os.close(reading)


@pytest.mark.slow
async def test_a_group_is_ended_only_when_all_of_it_is_dead() -> None:
    adopt_orphans()
    for _ in range(20):
        many = "for i in $(seq 20); do sleep 600 & done; exit 3"
        process, reading = start(many, keep_group=True)
        assert await process.wait() == 3
        await process.end_group()
        assert descendants() == {}
        os.close(reading)


async def test_a_group_is_looked_at_until_nothing_of_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [True, True, False]
    monkeypatch.setattr("streamer.sandbox.drivers.spawn._lives", lambda _: answers.pop(0))
    process, reading = start("exit 3", keep_group=True)
    assert await process.wait() == 3
    await process.end_group()
    assert answers == []
    assert process.pidfd == -1
    os.close(reading)


async def test_a_process_of_another_user_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    process, reading = start("sleep 600", keep_group=True)
    assert _lives(process.pid)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", refused)
        assert not _lives(process.pid)
    process.kill()
    assert await process.wait() == -9
    process.reap()
    os.close(reading)


async def test_a_process_that_cannot_be_held_is_not_left_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    started: list[int] = []
    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        start("sleep 600 & sleep 600")
    with pytest.raises(ProcessLookupError):  # nor is a zombie left of it
        os.kill(started[0], 0)


THREAD: Final = """
import ctypes, os, threading, time
if os.fork():
    os._exit(3)
threading.Thread(target=time.sleep, args=(600,)).start()
print("up", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


async def test_a_process_lives_as_long_as_one_of_its_threads() -> None:
    adopt_orphans()
    process, reading = start(f"exec python3 -c '{THREAD}'", keep_group=True)
    assert await process.wait() == 3
    assert os.read(reading, 9) == b"up\n"
    (left,) = descendants().keys() - {process.pid}
    while Path(f"/proc/{left}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        pass  # its first thread has not ended yet
    assert _lives(process.pid)
    await process.end_group()
    assert descendants() == {}
    os.close(reading)


async def test_a_name_that_looks_like_the_state_of_a_dead_process_hides_none(
    tmp_path: Path,
) -> None:
    adopt_orphans()
    program = tmp_path / "a) Z 1 1 ("
    shutil.copy("/bin/sleep", program)
    process, reading = start(f"exec 1>&-; '{program}' 600 & exit 3", keep_group=True)
    assert await process.wait() == 3
    assert os.read(reading, 1) == b""
    (left,) = descendants().keys() - {process.pid}
    while Path(f"/proc/{left}/comm").read_text() != "a) Z 1 1 (\n":
        pass  # it has not executed yet
    assert _lives(process.pid)
    await process.end_group()
    assert descendants() == {}
    os.close(reading)

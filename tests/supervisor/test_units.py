"""What the supervisor is made of, alone."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.errors import ConfigError, ServiceError
from streamer.supervisor.backoff import BackOff
from streamer.supervisor.folder import processes_folder
from streamer.supervisor.fork import fork
from streamer.supervisor.redisserver import PrivateRedis
from streamer.supervisor.supervisor import Supervisor
from streamer.web.siblings import Siblings, merged


def test_what_ends_again_and_again_is_started_later_and_later() -> None:
    backoff = BackOff()
    pauses = [backoff.pause_s(0.1) for _ in range(9)]
    assert pauses == [0, 1, 2, 4, 8, 15, 30, 30, 30]
    assert backoff.pause_s(3600) == 0, "what has run for long begins anew"
    assert backoff.pause_s(0.1) == 1


def test_a_fork_ends_with_what_its_function_returns_or_with_1() -> None:
    def fail() -> int:
        raise ValueError("as it may happen")

    codes = []
    for run in (lambda: 7, fail):
        _, status = os.waitpid(fork(run), 0)
        codes.append(os.waitstatus_to_exitcode(status))
    assert codes == [7, 1]


def test_a_fork_dies_with_its_parent() -> None:
    reading, writing = os.pipe()
    telling, told = os.pipe()

    def parent() -> int:
        def child() -> int:
            os.write(told, b"%d" % os.getpid())
            signal.pause()
            return 0

        os.close(reading)
        fork(child)
        os.close(writing)  # so that only the child has it
        signal.pause()
        return 0

    pid = fork(parent)
    os.close(writing)
    os.read(telling, 16)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.read(reading, 1) == b"", "the child has ended, and with it its end of the pipe"
    for fd in (reading, telling, told):
        os.close(fd)


def test_a_process_that_cannot_be_replaced_now_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others go on: there may be no memory, or no process left, for a moment."""
    forks = 0
    parent = os.getpid()

    def refused_once(run: Callable[[], int]) -> int:
        nonlocal forks
        forks += 1
        if forks == 2:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork(run)

    def run(number: int, supervisor: socket.socket, *, first: bool, replaces: str) -> int:
        supervisor.send(b'ready {"node": "one"}')
        if not first:
            os.kill(parent, signal.SIGTERM)
            assert supervisor.recv(64) == b"drain"
        return 0

    monkeypatch.setattr("streamer.supervisor.supervisor.fork", refused_once)
    Supervisor(1, run, None, lambda _: None).serve()
    assert forks == 3
    assert "process 1 cannot be started (Resource temporarily unavailable)" in caplog.text


ONE = """\
# HELP streamer_jobs_running Running jobs.
# TYPE streamer_jobs_running gauge
streamer_jobs_running 3
# HELP streamer_streams_open Event streams that are open.
# TYPE streamer_streams_open gauge
streamer_streams_open 1
# HELP streamer_jobs_finished_total Jobs that ended, by outcome.
# TYPE streamer_jobs_finished_total counter
streamer_jobs_finished_total{outcome="exited"} 5
"""
OTHER = ONE.replace("running 3", "running 2").replace("exited", "memory")


def test_the_metrics_of_processes_have_their_numbers_and_what_they_share_has_none() -> None:
    lines = merged({2: ONE, 1: OTHER}, 2).splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "streamer_jobs_running 3",
        'streamer_streams_open{process="2"} 1',
        'streamer_streams_open{process="1"} 1',
        'streamer_jobs_finished_total{process="2",outcome="exited"} 5',
        'streamer_jobs_finished_total{process="1",outcome="memory"} 5',
        "streamer_processes 2",
    ]
    heads = [line for line in lines if line.startswith("#")]
    assert len(heads) == len(set(heads)) == 8


async def test_a_process_that_ends_as_it_answers_has_given_none(tmp_path: Path) -> None:
    async def whole(asked: str) -> str:
        return f"{asked} \u00fc"

    async def killed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'[{"id": 1}, {"peer": "\xc3')
        writer.close()

    asking, other = Siblings(tmp_path, 1, 3), Siblings(tmp_path, 2, 3)
    async with (
        await other.listen({"readers": whole}),
        await asyncio.start_unix_server(killed, tmp_path / "3.sock"),
    ):
        assert await asking.ask("readers job1") == {2: "job1 \u00fc"}


def test_the_name_of_a_tenant_does_not_break_the_lines_of_metrics() -> None:
    head = "# TYPE streamer_tenant_run_seconds_total counter\n"
    odd = 'streamer_tenant_run_seconds_total{tenant="a\r\x85\u2028b"} 1'
    assert odd.replace("{", '{process="1",') in merged({1: f"{head}{odd}\n"}, 1).split("\n")


def test_a_folder_that_is_too_deep_for_sockets_is_told_and_left_empty(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with (
        pytest.raises(ConfigError, match=r"server\.state_dir: .*too long.* another folder"),
        processes_folder(str(deep)),
    ):
        pytest.fail("it has a folder")
    assert [*deep.iterdir()] == []


def test_a_redis_server_that_is_missing_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"server\.workers: .*redis-server.*valkey-server.*apt"):
        PrivateRedis(tmp_path)


def test_a_redis_server_that_does_not_start_is_told_with_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\necho no room here >redis.log\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = PrivateRedis(tmp_path)
    pid = server.start()
    with pytest.raises(ServiceError, match="redis-server does not start: no room here"):
        server.wait()
    os.waitpid(pid, 0)


def test_the_password_of_the_redis_server_is_in_no_file(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path)
    password = server.url.partition("://streamer:")[2].partition("@")[0]
    assert len(password) > 40
    for file in tmp_path.iterdir():
        assert password not in file.read_text(), file
    assert stat.S_IMODE((tmp_path / "redis.conf").stat().st_mode) & 0o077 == 0

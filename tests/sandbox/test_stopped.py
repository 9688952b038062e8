"""A stopped init ends its job, and the log tells the operator why."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer.compose import Parts
from streamer.model.job import JobSpec
from streamer.sandbox.drivers import gated, protocol
from tests.conftest import OpenService
from tests.running import adopt_orphans, ended, kept_besides, run_job
from tests.worker.test_bounds import SLEEPER, until_output


def stop_init(service: Parts) -> int:
    """Stop the init of the one job that runs, as its job can in firejail; return its number."""
    processes, _ = kept_besides(service.worker.pool)
    for pid in processes:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if command[0] == b"/init" or command[1:2] == [b"serve"]:
            os.kill(pid, signal.SIGSTOP)
            return pid
    raise AssertionError(processes)


@pytest.fixture
async def stoppable(open_service: OpenService, need: Callable[[str], str]) -> Parts:
    """Return a service of a backend whose init is not pid 1."""
    adopt_orphans()
    return await open_service(need("firejail"), sandbox={"cgroup": "off"})


@pytest.fixture(params=[True, False], ids=["template", "own"])
async def service(
    request: pytest.FixtureRequest, open_service: OpenService, need: Callable[[str], str]
) -> Parts:
    adopt_orphans()
    sandbox = {"cgroup": "off", "bwrap": {"template": request.param}}
    return await open_service(need("bwrap"), sandbox=sandbox)


async def test_a_stopped_init_is_told_as_such(
    stoppable: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    service = stoppable
    job = await service.jobs.submit(JobSpec(command=SLEEPER))
    await until_output(job)
    stop_init(service)
    assert (await ended(job)).verdict == "error sandbox_error"
    assert "the job has stopped the init" in caplog.text
    assert kept_besides(service.worker.pool)[0] == {}


@pytest.fixture
def resisting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    for place in (
        "sandbox.drivers.gated.END_TIMEOUT_S",
        "worker.program.END_TIMEOUT_S",
        "worker.execution.TIDY_S",
    ):
        monkeypatch.setattr(f"streamer.{place}", 0.3)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def test_one_that_nothing_inside_can_stop_is_not_looked_at(
    service: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(pid: int) -> None:
        raise AssertionError(pid)

    monkeypatch.setattr(gated, "StopWatch", look)
    ran = await run_job(service, command=("true",))
    assert ran.verdict == "exited 0"


async def test_a_stopped_init_that_does_not_end_is_told_as_such(
    service: Parts,
    resisting: list[int],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "FIRST", 0)  # as if it were not pid 1
    job = await service.jobs.submit(JobSpec(command=SLEEPER))
    await until_output(job)
    resisting.append(stop_init(service))
    assert (await ended(job)).verdict == "error sandbox_error"
    assert "the job has stopped the init" in caplog.text
    assert "unexpected failure" not in caplog.text
    os.kill(resisting.pop(), signal.SIGKILL)
    async with asyncio.timeout(20):
        while service.worker.resisting:
            await asyncio.sleep(0.01)


async def test_an_init_that_loses_its_wrapper_leaves_no_zombie(service: Parts) -> None:
    """If this process is a subreaper, it has to reap the init."""
    job = await service.jobs.submit(JobSpec(command=SLEEPER))
    await until_output(job)
    init = stop_init(service)
    wrapper = int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(wrapper, signal.SIGKILL)
    assert (await ended(job)).verdict == "error sandbox_error"
    assert not Path(f"/proc/{init}").exists()

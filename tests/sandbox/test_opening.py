"""An error while a sandbox is opened counts as a failure of the sandbox."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from streamer.model.job import ResolvedJob
from streamer.sandbox.registry import MAX_FAILURES
from streamer.testing.running import plugin
from streamer.worker.execution import Execution
from streamer.worker.stop import Stop, Stopped
from tests.backends.test_leftovers import Bare
from tests.conftest import OpenService
from tests.running import run_job, script


async def test_a_host_that_gives_no_folder_makes_the_backend_doubtful(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("plain"))
    assert service.worker.pool is not None
    shutil.rmtree(service.worker.pool.folder.path / "jobs")
    for _ in range(MAX_FAILURES):
        assert (await run_job(service, command=("true",))).verdict == "error sandbox_error"
    async with asyncio.timeout(20):  # it is counted just after the job's end
        while service.worker.backends.trusted:
            await asyncio.sleep(0.01)


async def test_a_disk_that_takes_no_file_is_the_hosts_fault(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service("bare", plugins=(plugin(Bare),))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("streamer.sandbox.drivers.direct.write_files", full)
    ran = await run_job(service, command=("true",), files=(script("f", "x"),))
    assert ran.verdict == "error sandbox_error"


async def test_a_place_comes_back_however_the_tidying_ends() -> None:
    async def failing() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    execution = object.__new__(Execution)
    execution._job = ResolvedJob(job_id="one", language=None, backend="plain", steps=())
    execution._about = {}
    execution.resists = True
    await execution._all_given_back(asyncio.create_task(failing()))
    assert not execution.resists


async def test_a_stop_that_meets_the_end_of_the_preparations_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    monkeypatch.setattr(loop, "call_exception_handler", faults.append)
    stop = Stop()
    ready: asyncio.Future[None] = loop.create_future()

    def both() -> None:
        ready.set_result(None)
        stop.request("cancelled")

    loop.call_soon(both)
    async with stop.unless_requested(60):
        await ready
    await asyncio.sleep(0)
    assert faults == []


async def test_a_stop_while_the_preparations_are_given_up_is_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    faults: list[dict[str, Any]] = []
    monkeypatch.setattr(loop, "call_exception_handler", faults.append)
    stop = Stop()
    with pytest.raises(Stopped):
        async with stop.unless_requested(0):
            try:
                await asyncio.Event().wait()
            finally:
                stop.request("cancelled")
                await asyncio.sleep(0)  # as while the sandbox is closed
                await asyncio.sleep(0)
    assert faults == []

"""Trials of backends: nobody waits for one, and none is for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer import spi
from streamer.backends import MAX_FAILURES
from streamer.errors import BackendUnavailable
from streamer.jobs import JobSpec
from streamer.testing.running import plugin
from tests.conftest import OpenService, Start
from tests.jobs import Ran, ended, run_job
from tests.support import AnyClient, run, verdict


@dataclass(frozen=True)
class Fickle(spi.Backend):
    """Works or not as its file says."""

    name: ClassVar[str] = "fickle"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE

    path: str = "/usr/bin/env"

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(
            argv=(self.path, "-i", *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
            own_pid_namespace=True,
        )


@dataclass(frozen=True)
class Slow(Fickle):
    """Never passes its probe, nor fails it."""

    name: ClassVar[str] = "slow"

    async def probe(self, host: spi.Host) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    command = tmp_path / "wrapper"
    command.symlink_to("/usr/bin/env")
    return command


async def test_a_backend_that_hangs_in_its_trial_holds_up_nobody(
    start: Start, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.backends.PATIENCE_S", 0.3)
    sandbox = {"backend": need("plain"), "allow": ["slow"]}
    client = await start(sandbox=sandbox, plugins=(plugin(Slow),))
    asking = asyncio.create_task(_sandboxes(client))
    async with asyncio.timeout(20):
        assert verdict(await run(client, command=["true"]))["reason"] == "exited"
        listed = await asking
        refused = await client.post("/api/execute", json={"command": ["true"], "sandbox": "slow"})
    assert listed["slow"]["available"] is False
    assert "being tried" in listed["slow"]["reason"]
    assert listed["plain"]["available"] is True
    assert refused.status == 503


async def _sandboxes(client: AnyClient) -> dict[str, dict[str, Any]]:
    async with client.get("/api/sandboxes") as response:
        document = await response.json()
    return {entry["name"]: entry for entry in document["sandboxes"]}


async def test_a_trial_does_not_wait_for_a_jobs_user(
    start: Start, need: Callable[[str], str]
) -> None:
    sandbox = {"backend": need("plain")}
    client = await start(sandbox=sandbox, plugins=(plugin(Fickle),), queue={"concurrency": 1})
    async with client.post("/api/execute", json={"command": ["sleep", "600"]}) as response:
        assert response.status == 202
    listed = await _sandboxes(client)
    assert listed["fickle"]["reason"] is None
    assert listed["fickle"]["available"] is True


async def test_a_backend_that_did_not_work_is_tried_again(
    open_service: OpenService,
    need: Callable[[str], str],
    wrapper: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.backends.RETRY_S", 0.05)
    wrapper.unlink()
    sandbox = {"allow": ["fickle"], "fickle": {"path": str(wrapper)}}
    service = await open_service(need("plain"), plugins=(plugin(Fickle),), sandbox=sandbox)
    with pytest.raises(BackendUnavailable):
        await service.submit(JobSpec(command=("true",), sandbox="fickle"))
    wrapper.symlink_to("/usr/bin/env")
    while service.backends.known(["fickle"])["fickle"]:
        await asyncio.sleep(0.01)
    assert (await run_job(service, command=("echo", "1"), sandbox="fickle")).out == "1\n"


async def test_jobs_that_a_sandbox_cannot_run_turn_readiness_until_it_works_again(
    start: Start, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.backends.RETRY_S", 0.05)
    sandbox = {"backend": "fickle", "fickle": {"path": str(wrapper)}}
    client = await start(sandbox=sandbox, plugins=(plugin(Fickle),))
    assert await _ready(client) == (200, True)
    wrapper.unlink()
    for _ in range(MAX_FAILURES):
        assert await _ready(client) == (200, True)
        assert verdict(await run(client, command=["true"]))["code"] == "sandbox_error"
    while (await _ready(client))[0] == 200:
        await asyncio.sleep(0.01)
    assert await _ready(client) == (503, False)
    async with client.post("/api/execute", json={"command": ["true"]}) as response:
        assert response.status in (202, 503)
    wrapper.symlink_to("/usr/bin/env")
    while (await _ready(client))[0] != 200:
        await asyncio.sleep(0.01)
    assert verdict(await run(client, command=["true"]))["reason"] == "exited"


async def _ready(client: AnyClient) -> tuple[int, bool]:
    async with client.get("/readyz") as response:
        return response.status, (await response.json())["checks"]["sandbox"]


async def test_a_job_that_runs_clears_the_count_of_those_that_could_not(
    open_service: OpenService, wrapper: Path
) -> None:
    sandbox = {"fickle": {"path": str(wrapper)}}
    service = await open_service("fickle", plugins=(plugin(Fickle),), sandbox=sandbox)

    async def run_one() -> Ran:
        return await ended(await service.submit(JobSpec(command=("true",))))

    for _ in range(3):
        wrapper.unlink()
        for _ in range(MAX_FAILURES - 1):
            assert (await run_one()).verdict == "error sandbox_error"
        wrapper.symlink_to("/usr/bin/env")
        assert (await run_one()).verdict == "exited 0"
    assert service.backends.trusted

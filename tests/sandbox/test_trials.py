"""Tests of backends at the start: nothing waits for them, and each has an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from streamer import spi
from streamer.compose import build
from streamer.config.schema import Config
from streamer.errors import BackendUnavailable
from streamer.model.job import JobSpec
from streamer.sandbox.pool import Pool
from streamer.sandbox.registry import MAX_FAILURES
from streamer.sandbox.seccomp import job_filter
from streamer.testing.running import plugin
from tests.conftest import OpenService, Start
from tests.running import Ran, ended, run_job
from tests.sandbox.templated import SHAPE, powerless
from tests.support import AnyClient, run, verdict


@dataclass(frozen=True)
class Fickle(spi.Backend):
    """Works if the wrapper at `path` does."""

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
    """A backend whose probe never returns."""

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
    monkeypatch.setattr("streamer.sandbox.registry.PATIENCE_S", 0.3)
    sandbox = {"backend": need("plain"), "allow": ["slow"]}
    client = await start(sandbox=sandbox, plugins=(plugin(Slow),))
    asking = asyncio.create_task(_sandboxes(client))
    async with asyncio.timeout(20):
        assert verdict(await run(client, command=["true"]))["reason"] == "exited"
        listed = await asking
        refused = await client.post("/api/execute", json={"command": ["true"], "sandbox": "slow"})
    assert listed["slow"]["available"] is False
    assert "being tested" in listed["slow"]["reason"]
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
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)
    wrapper.unlink()
    sandbox = {"allow": ["fickle"], "fickle": {"path": str(wrapper)}}
    service = await open_service(need("plain"), plugins=(plugin(Fickle),), sandbox=sandbox)
    with pytest.raises(BackendUnavailable):
        await service.jobs.submit(JobSpec(command=("true",), sandbox="fickle"))
    wrapper.symlink_to("/usr/bin/env")
    out = ""
    async with asyncio.timeout(20):
        while not out:
            with contextlib.suppress(BackendUnavailable):  # it is published after the test
                out = (await run_job(service, command=("echo", "1"), sandbox="fickle")).out
            await asyncio.sleep(0.01)
    assert out == "1\n"


async def test_a_sandbox_that_never_closes_ends_no_other_tests(
    open_service: OpenService,
    need: Callable[[str], str],
    wrapper: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)
    wrapper.unlink()
    sandbox = {"allow": ["fickle"], "fickle": {"path": str(wrapper)}}
    service = await open_service(need("plain"), plugins=(plugin(Fickle),), sandbox=sandbox)
    assert service.worker.pool is not None
    closing = 0

    async def _try_warm(backend: spi.Backend, pool: Pool) -> None:
        nonlocal closing
        closing += backend.name == "plain"  # not what follows the test of the other
        await asyncio.Event().wait()

    monkeypatch.setattr(service.worker.backends, "_try_warm", _try_warm)
    monkeypatch.setattr("streamer.sandbox.registry.AGAIN_S", 0.01)
    service.worker.pool.held.tried("plain", "not on a busy machine")
    async with asyncio.timeout(20):
        while not closing:
            await asyncio.sleep(0.01)
        wrapper.symlink_to("/usr/bin/env")
        while service.worker.backends.known(["fickle"])["fickle"]:
            await asyncio.sleep(0.01)
    assert closing == 1


async def test_jobs_that_a_sandbox_cannot_run_turn_readiness_until_it_works_again(
    start: Start, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)
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


async def test_jobs_that_fail_in_a_row_have_their_sandbox_tried_at_once(
    start: Start, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 3600)
    sandbox = {"backend": "fickle", "fickle": {"path": str(wrapper)}}
    client = await start(sandbox=sandbox, plugins=(plugin(Fickle),))
    assert (await _sandboxes(client))["fickle"]["available"]
    wrapper.unlink()
    for _ in range(MAX_FAILURES):
        assert verdict(await run(client, command=["true"]))["code"] == "sandbox_error"
    async with asyncio.timeout(60):
        while (await _sandboxes(client))["fickle"]["available"]:
            await asyncio.sleep(0.01)


async def test_a_trial_that_works_ends_the_doubt_without_a_job(
    start: Start, wrapper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)
    sandbox = {"backend": "fickle", "fickle": {"path": str(wrapper)}}
    client = await start(sandbox=sandbox, plugins=(plugin(Fickle),))
    wrapper.unlink()
    for _ in range(MAX_FAILURES):
        assert verdict(await run(client, command=["true"]))["code"] == "sandbox_error"
    async with asyncio.timeout(20):
        while (await _ready(client))[0] == 200:
            await asyncio.sleep(0.01)
        wrapper.symlink_to("/usr/bin/env")
        while (await _ready(client))[0] != 200:
            await asyncio.sleep(0.01)


async def test_a_job_that_runs_clears_the_count_of_those_that_could_not(
    open_service: OpenService, wrapper: Path
) -> None:
    sandbox = {"fickle": {"path": str(wrapper)}}
    service = await open_service("fickle", plugins=(plugin(Fickle),), sandbox=sandbox)

    async def run_one() -> Ran:
        return await ended(await service.jobs.submit(JobSpec(command=("true",))))

    for _ in range(3):
        wrapper.unlink()
        for _ in range(MAX_FAILURES - 1):
            assert (await run_one()).verdict == "error sandbox_error"
        assert service.worker.backends.trusted  # a trial would restore it once the wrapper is there
        wrapper.symlink_to("/usr/bin/env")
        assert (await run_one()).verdict == "exited 0"
    assert service.worker.backends.trusted


# -- what is tried is what jobs get ----------------------------------------------------


@dataclass(frozen=True)
class Noted(Fickle):
    """Records its jobs, and has each sandbox write down its control groups."""

    name: ClassVar[str] = "noted"
    told: ClassVar[list[spi.SandboxJob]] = []

    notes: str = ""

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        self.told.append(job)
        start = ("/bin/sh", "-c", 'cat /proc/self/cgroup >>"$0"; echo >>"$0"; exec "$@"')
        plan = super().plan(job, workspace)
        return replace(plan, argv=(*start, self.notes, *plan.argv))


@pytest.fixture
def notes(wrapper: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the sandboxes of `Noted` write."""
    monkeypatch.setattr(Noted, "told", [])
    path = wrapper.with_name("notes")
    path.touch()
    path.chmod(0o666)
    return path


def groups(notes: Path) -> list[list[str]]:
    """Return the parents of each sandbox's groups, by hierarchy; its own have random names."""
    return [
        [line.rpartition("/")[0] if "/streamer-" in line else line for line in one.splitlines()]
        for one in notes.read_text().split("\n\n")[:-1]
    ]


async def test_what_is_tried_is_what_jobs_get(
    open_service: OpenService, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters: list[Mapping[str, Any]] = []

    def noted_filter(**wanted: Any) -> bytes | None:
        filters.append(wanted)
        return job_filter(**wanted)

    monkeypatch.setattr("streamer.sandbox.pool.job_filter", noted_filter)
    own = {
        "entry": "main",
        "run": ["/bin/sh", "{entry}"],
        "read_only": ["/srv"],
        "etc": ["profile"],
    }
    service = await open_service(
        "noted",
        plugins=(plugin(Noted),),
        sandbox={"noted": {"notes": str(notes)}, "seccomp": "strict"},
        runtimes=(Config.from_mapping({"runtimes": {"own": own}}).runtimes["own"],),
    )
    for spec in ({"language": "own", "code": ":"}, {"command": ("true",)}):
        assert (await run_job(service, **spec)).verdict == "exited 0"
    tried, job, command = Noted.told
    assert {"/srv", "/etc/profile"} <= {shown.source for shown in job.shown}
    assert {*job.shown, *command.shown} <= {*tried.shown}
    assert (job.identity is None) == (tried.identity is None)
    assert groups(notes) == [groups(notes)[0]] * 3
    assert ("/streamer-" in str(groups(notes))) == (service.worker.cgroup_level is not None)
    assert filters == [filters[0]] * 3
    assert filters[0]["strict"]


async def test_what_the_commands_try_is_in_a_group_too(
    open_service: OpenService, notes: Path
) -> None:
    config = {
        "backend": "noted",
        "allow_command": True,
        "warm": False,
        "noted": {"notes": str(notes)},
    }
    parts = build({"sandbox": config}, (plugin(Noted),))
    async with parts.worker.trial() as backends:
        assert await backends.reasons(["noted"]) == dict.fromkeys(backends, "")
    await parts.engine.close()
    service = await open_service("noted", plugins=(plugin(Noted),), sandbox=config)
    by_command, by_service = groups(notes)
    assert ("/streamer-" in str(by_command)) == (service.worker.cgroup_level is not None)
    assert [line.rpartition("/")[0] for line in by_command if "/streamer-" in line] == [
        line.rpartition("/")[0] for line in by_service if "/streamer-" in line
    ]


async def test_auto_says_why_it_passes_over_a_stronger_sandbox(
    open_service: OpenService, need: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    need("firejail")
    service = await open_service("auto", sandbox={"bwrap": {"path": "/nowhere/bwrap"}})
    assert service.worker.backends.default == "firejail"
    assert "sandbox bwrap does not work here: /nowhere/bwrap" in caplog.text


async def test_a_sandbox_that_cannot_limit_what_an_account_has_once_is_told(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    look = ("cat", "/proc/sys/user/max_inotify_instances")
    for denied in (False, True):
        if denied:
            monkeypatch.setattr(Bwrap, "plan", powerless)
        service = await open_service(need("bwrap"), sandbox={"bwrap": {"template": False}})
        pool = service.worker.pool
        assert pool is not None
        sandbox = await pool.lend(SHAPE)
        await sandbox.close()
        assert sandbox.unbounded is denied
        assert (int((await run_job(service, command=look)).out) == 16) is not denied
        # Each job of root's service has an account of its own.
        told = denied and os.geteuid() != 0
        assert ("its jobs share inotify" in caplog.text) is told
        assert bool(service.worker.backends.warning("bwrap")) is told

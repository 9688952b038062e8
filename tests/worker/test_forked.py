"""A service forks programs from an interpreter that runs already, where its operator wants that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.errors import SandboxFailure
from streamer.model.capabilities import NO_ROOM
from streamer.model.job import JobSpec, SourceFile, TerminalSize
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.forks import MAX_FAILURES
from streamer.sandbox.pool import Pool
from streamer.sandbox.trial import Trial
from tests.conftest import OpenService, Start
from tests.fork import FORKING
from tests.running import ended, run_job
from tests.sandbox.forking import PROGRAM, can_fork, need_forks
from tests.support import submit

SEED: Final = "print(hash('a text'))"
"""The same in the programs of one interpreter, and in no others."""


async def pool_of(service: Parts, backend: str = "bwrap") -> Pool:
    """Return the pool, when it is known whether programs can be forked in a backend."""
    pool = service.worker.pool
    assert pool is not None
    async with asyncio.timeout(30):
        while (backend, "python") not in pool.forks._why_not:
            await asyncio.sleep(0.01)
    return pool


@pytest.fixture
async def service(need: Callable[[str], str], open_service: OpenService) -> Parts:
    need("bwrap")
    need_forks()
    service = await open_service("bwrap", runtimes=(FORKING,))
    assert (await pool_of(service)).forks.why_not("bwrap", "python") == ""
    return service


async def seed(service: Parts, tenant: str = "", **own: Any) -> str:
    spec = JobSpec(**{"language": "python", "code": SEED, **own})
    return (await ended(await service.jobs.submit(spec, tenant=tenant))).out


async def test_jobs_are_forked_from_the_second_one_on(service: Parts) -> None:
    first, *others = [await seed(service) for _ in range(3)]
    assert others[0] == others[1] != first
    assert service.ahead().forks["bwrap"] == ("python",)
    assert service.ahead().forked == 1 + len(others)  # and that of the test at the start


async def test_tenants_never_share_an_interpreter(service: Parts) -> None:
    seeds = {tenant: {await seed(service, tenant) for _ in range(4)} for tenant in "ab"}
    # The first job of each was not forked.
    assert [len(found) for found in seeds.values()] == [2, 2]
    assert not seeds["a"] & seeds["b"]


@pytest.mark.parametrize(
    "own",
    [
        {"args": ("a",)},
        {"env": {"PYTHONHASHSEED": "random"}},
        {"env": {"LD_BIND_NOW": "1"}},
        {"entry": "other.py"},
        {"files": (SourceFile(".local/lib/a.py", b""),)},
        {"terminal": TerminalSize(cols=80, rows=24)},
        {"language": None, "code": None, "command": ("python3", "-c", SEED)},
    ],
    ids=["arguments", "PYTHON", "LD", "entry", "packages", "terminal", "command"],
)
async def test_a_job_with_something_of_its_own_is_not(
    service: Parts, own: Mapping[str, Any]
) -> None:
    _, usual = await seed(service), await seed(service)
    before = service.ahead().forked
    for _ in range(3):  # not the first one either way
        assert await seed(service, **own) != usual
    assert service.ahead().forked == before


async def test_what_the_language_needs_of_the_host_is_there(
    need: Callable[[str], str], open_service: OpenService
) -> None:
    need("bwrap")
    need_forks()
    needy = replace(FORKING, read_only=("/opt",), etc=("shells",))
    service = await open_service("bwrap", runtimes=(needy,))
    await pool_of(service)
    code = "import os; print(os.path.isdir('/opt'), os.path.isfile('/etc/shells'))"
    before = service.ahead().forked
    for _ in range(3):
        assert await seed(service, code=code) == "True True\n"
    assert service.ahead().forked == before + 2


async def test_the_record_of_a_job_tells_how_it_is_confined(
    service: Parts, open_service: OpenService
) -> None:
    policies = []
    for at in (service, service, service, await open_service("bwrap")):
        job = await at.jobs.submit(JobSpec(language="python", code=SEED))
        await ended(job)
        policies.append((await job.view()).job.policy)
    started, forked, again, elsewhere = policies
    assert forked == again != started == elsewhere


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        ("import time; time.sleep(60)", {"wall_time_s": 0.5}, "wall_time"),
        ("while True: pass", {"cpu_time_s": 0.5}, "cpu_time"),
        ("x = []\nwhile True: x.append(bytearray(10**7))", {"memory_bytes": "64MiB"}, "memory"),
        ("while True: print('x' * 1000)", {"output_bytes": 1000}, "output_limit"),
    ],
    ids=["wall time", "CPU time", "memory", "output"],
)
async def test_limits_are_those_of_the_job(
    service: Parts, code: str, limits: Mapping[str, Any], reason: str
) -> None:
    before = service.ahead().forked
    for _ in range(3):
        ran = await run_job(service, language="python", code=code, limits=limits)
        assert ran.complete.reason == reason
    assert service.ahead().forked == before + 2


async def test_its_usage_is_reported(service: Parts) -> None:
    for _ in range(2):
        code = "import time\nx = bytearray(3 * 10**7)\nwhile time.process_time() < 0.2: pass"
        ran = await run_job(service, language="python", code=code)
    assert service.ahead().forked == 2
    cpu_ms, memory = ran.complete.cpu_time_ms, ran.complete.peak_memory_bytes
    assert cpu_ms is not None
    assert cpu_ms >= 200
    assert memory is not None
    assert 3 * 10**7 < memory < 10**8


async def test_what_it_leaves_is_ended(service: Parts) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    for _ in range(2):
        ran = await run_job(service, language="python", code=code)
        assert ran.verdict == "exited 0"
    assert service.ahead().forked == 2


async def test_a_job_is_cancelled_as_ever(service: Parts) -> None:
    await seed(service)
    code = (
        "import signal, time\nsignal.signal(15, lambda *a: print('heard') or exit(4))\n"
        "import os; os.write(1, b'up\\n')\ntime.sleep(60)"
    )
    job = await service.jobs.submit(JobSpec(language="python", code=code))
    async for event in job.events():
        if event.kind == "output":
            await job.cancel()
            break
    ran = await ended(job)
    assert ran.text() == "up\nheard\n"
    assert (ran.complete.reason, ran.complete.exit_code) == ("cancelled", 4)
    assert service.ahead().forked == 2


async def test_many_jobs_at_once(service: Parts) -> None:
    await seed(service)
    found = await asyncio.gather(*(seed(service) for _ in range(12)))
    assert service.ahead().forked == 13
    # As root each user has one.
    assert len(set(found)) <= service.config.queue.places


# -- ahead of their jobs ------------------------------------------------------------------


async def held(service: Parts) -> None:
    assert service.worker.pool is not None
    service.worker.pool.held._refill._processors.count = 1000  # whatever else runs on this machine
    async with asyncio.timeout(20):
        while not sum(service.ahead().held.values()):
            await asyncio.sleep(0.01)


@pytest.fixture
async def warm(need: Callable[[str], str], open_service: OpenService) -> Parts:
    need("bwrap")
    need_forks()
    service = await open_service("bwrap", runtimes=(FORKING,), sandbox={"warm": True})
    await pool_of(service)
    return service


async def test_what_only_one_job_has_wanted_is_held_ahead(warm: Parts) -> None:
    await seed(warm)
    await held(warm)
    assert warm.worker.pool is not None
    (waiting,) = warm.worker.pool.held._held
    assert (await waiting.opening).way == "template"
    assert (await waiting.opening).holds
    assert warm.ahead().forked == 1  # that of the test at the start


async def test_programs_are_forked_before_their_jobs(warm: Parts) -> None:
    await seed(warm)
    await held(warm)
    await seed(warm)
    assert warm.worker.pool is not None
    for count in range(1, 3):
        await held(warm)
        (waiting,) = warm.worker.pool.held._held
        assert (await waiting.opening).way == "forked"
        assert (await waiting.opening).waits
        assert int(await seed(warm))
        ahead = warm.ahead()
        assert (ahead.opened, ahead.warm) == (0, 1 + count)


async def test_none_is_used_that_is_too_old(warm: Parts) -> None:
    await seed(warm)
    await held(warm)
    await seed(warm)
    await held(warm)
    assert warm.worker.pool is not None
    (waiting,) = warm.worker.pool.held._held
    sandbox = await waiting.opening
    assert sandbox.fresh_until <= time.monotonic() + warm.config.sandbox.fork_age_s
    sandbox.fresh_until = time.monotonic()
    assert int(await seed(warm))
    assert (warm.ahead().opened, warm.ahead().cold) == (0, 2)


async def test_where_nothing_can_be_forked_programs_are_held(
    warm: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.drivers.forking.LIBRARY", "nothing.so")
    for count in range(3):
        assert int(await seed(warm))
        await held(warm)
        assert warm.ahead().warm == count


async def test_where_none_is_forked_a_program_is_held_for_any_tenant(
    need: Callable[[str], str], open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr("streamer.sandbox.drivers.forking.LIBRARY", "nothing.so")
    service = await open_service("bwrap", runtimes=(FORKING,), sandbox={"warm": True})
    assert "nothing.so is not built" in (await pool_of(service)).forks.why_not("bwrap", "python")
    await seed(service, "a")
    await held(service)
    await seed(service, "b")
    assert service.ahead().warm == 1


# -- where it does not work ---------------------------------------------------------------


async def test_without_templates_jobs_run_as_by_default(
    need: Callable[[str], str], open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    need("bwrap")
    service = await open_service(
        "bwrap", runtimes=(FORKING,), sandbox={"bwrap": {"template": False}}
    )
    pool = await pool_of(service)
    why = "this needs a template: it has no template"
    assert pool.forks.why_not("bwrap", "python").startswith(why)
    assert "no program of python is forked: this needs a template" in caplog.text
    assert len({await seed(service) for _ in range(3)}) == 3
    assert service.ahead().forks["bwrap"] == ()
    assert service.ahead().forked == 0


@pytest.mark.skipif(can_fork(), reason="programs are forked here")
async def test_a_kernel_or_machine_on_which_nothing_is_forked_is_told(
    need: Callable[[str], str], open_service: OpenService
) -> None:
    need("bwrap")
    service = await open_service("bwrap", runtimes=(FORKING,))
    why = (await pool_of(service)).forks.why_not("bwrap", "python")
    assert "CONFIG_CHECKPOINT_RESTORE" in why or "x86-64 and AArch64" in why
    assert len({await seed(service) for _ in range(3)}) == 3
    assert service.ahead().forks["bwrap"] == ()
    assert service.ahead().forked == 0


@pytest.mark.parametrize("backend", ["firejail", "plain"])
async def test_other_backends_run_jobs_as_by_default(
    need: Callable[[str], str],
    open_service: OpenService,
    caplog: pytest.LogCaptureFixture,
    backend: str,
) -> None:
    need(backend)
    service = await open_service(backend, runtimes=(FORKING,))
    assert len({await seed(service) for _ in range(3)}) == 3
    assert service.ahead().forked == 0
    await pool_of(service, backend)
    assert f"sandbox {backend}: no program of python is forked" in caplog.text


async def test_of_backends_that_never_fork_only_the_default_is_warned_of(
    need: Callable[[str], str], open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    need("bwrap")
    need("plain")
    service = await open_service("bwrap", runtimes=(FORKING,))
    await service.worker.backends.reasons()
    await pool_of(service, "plain")
    assert "sandbox plain: no program" not in caplog.text


async def test_a_test_that_failed_is_repeated(
    need: Callable[[str], str],
    open_service: OpenService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    need("bwrap")
    need_forks()
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)

    async def fail(*_: object) -> str:
        raise SandboxFailure("not on a busy machine")

    with monkeypatch.context() as busy:
        busy.setattr(Trial, "_fork", fail)
        service = await open_service("bwrap", runtimes=(FORKING,))
        pool = await pool_of(service)
        assert pool.forks.why_not("bwrap", "python") == "not on a busy machine"
    async with asyncio.timeout(60):
        while pool.forks.why_not("bwrap", "python"):
            await asyncio.sleep(0.01)
    assert "programs of python are forked again" in caplog.text


async def test_only_a_test_tells_that_a_language_is_not_forked(
    service: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)
    pool = await pool_of(service)
    before: list[str] = []

    async def fork(*_: object) -> str:
        before.append(pool.forks.why_not("bwrap", "python"))
        return NO_ROOM if len(before) == 1 else "it is broken"

    monkeypatch.setattr(Trial, "_fork", fork)
    for _ in range(MAX_FAILURES):
        pool.forks.failed("bwrap", PROGRAM, SandboxFailure("its limits are too small"))
    async with asyncio.timeout(60):
        while pool.forks.why_not("bwrap", "python") != "it is broken":
            await asyncio.sleep(0.01)
    assert before[:2] == ["", ""]


async def test_the_test_at_the_start_runs_a_program(
    need: Callable[[str], str], open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    need_forks()
    monkeypatch.setattr("streamer.sandbox.trial.FORKED", "raise SystemExit(7)")
    pool = await pool_of(await open_service("bwrap", runtimes=(FORKING,)))
    assert pool.forks.why_not("bwrap", "python") == "a test program ended with 7"


async def test_a_program_that_cannot_be_an_interpreter_is_found_at_the_start(
    need: Callable[[str], str], open_service: OpenService
) -> None:
    need("bwrap")
    # It looks for no file.
    eager = replace(FORKING, env={"PYTHONINSPECT": "1", "PYTHONHOME": "/nowhere"})
    pool = await pool_of(await open_service("bwrap", runtimes=(eager,)))
    assert "the template has ended" in pool.forks.why_not("bwrap", "python")


async def test_a_failure_of_an_interpreter_costs_no_job(
    service: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await seed(service)
    real = Gated.come_up

    async def come_up(gated: Gated) -> None:
        if gated.forked_from is not None:
            raise SandboxFailure("it is broken")
        await real(gated)

    monkeypatch.setattr(Gated, "come_up", come_up)
    assert int(await seed(service))
    assert "no program of python was forked" in caplog.text
    assert "it is broken" in caplog.text


async def test_callers_see_which_languages_are_forked(
    need: Callable[[str], str], start: Start
) -> None:
    need("bwrap")
    need_forks()
    client = await start(runtimes={"python": {"fork": True}}, sandbox={"warm": False})
    backends: dict[str, dict[str, Any]] = {}

    async def forks() -> list[str]:
        async with client.get("/api/sandboxes") as response:
            listed = (await response.json())["sandboxes"]
        backends.update((one["name"], one) for one in listed)
        return list(backends["bwrap"]["forks"])

    async def metrics() -> str:
        async with client.get("/metrics") as response:
            return await response.text()

    async with asyncio.timeout(20):
        while await forks() != ["python"] or not backends["plain"]["notForked"]:
            await asyncio.sleep(0.02)
    assert backends["bwrap"]["notForked"] == {}
    assert backends["bwrap"]["notHeld"] == "sandbox.warm is false"
    assert "has no template" in backends["plain"]["notForked"]["python"]
    for _ in range(2):
        await submit(client, language="python", code="pass")
    async with asyncio.timeout(20):
        while "\nstreamer_programs_forked_total 2\n" not in await metrics():
            await asyncio.sleep(0.02)

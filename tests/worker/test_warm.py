"""A service starts programs before their jobs, and its callers notice nothing but the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.errors import SandboxFailure
from streamer.model.job import JobSpec, SourceFile, TerminalSize
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Run
from tests.conftest import OpenService, Start
from tests.languages import scripts
from tests.running import descendants, ended, run_job
from tests.support import parts_of, submit

SIZE = TerminalSize(cols=80, rows=24)
WARM: Mapping[str, Any] = {"warm": True}
SCRIPTS = {row.language: row for row in scripts.SCRIPTS}


async def held(service: Parts, count: int = 1) -> None:
    """Wait until so many programs are held."""
    assert service.worker.pool is not None
    service.worker.pool.held._refill._processors.count = 1000  # whatever else runs on this machine
    async with asyncio.timeout(20):
        while sum(service.ahead().held.values()) != count:
            await asyncio.sleep(0.01)


def wanted(service: Parts) -> set[Program | None]:
    """Return the programs that the service would start before the next jobs."""
    assert service.worker.pool is not None
    return {program for _, program in service.worker.pool.held._wants._wanted}


@pytest.fixture
async def service(need: Callable[[str], str], open_service: OpenService) -> Parts:
    need("bwrap")
    return await open_service("bwrap", sandbox=WARM)


async def test_jobs_take_over_programs_that_were_started_before(service: Parts) -> None:
    code = "import sys; print(sys.argv, sys.stdin.read()); sys.exit(3)"
    for count in range(3):
        ran = await run_job(service, language="python", code=code, stdin=b"given")
        assert (ran.text(), ran.text("stderr"), ran.verdict) == (
            "['main.py'] given\n",
            "",
            "exited 3",
        )
        await held(service)
        assert (service.ahead().warm, service.ahead().cold) == (count, 1)


async def test_operators_can_see_which_way_a_job_ran(
    service: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "streamer.worker.prepare")
    for _ in range(2):
        await run_job(service, language="python", code="print(1)")
        await held(service)
    said = [r.getMessage().split()[1:] for r in caplog.records if r.name.endswith(".prepare")]
    assert [waited for _, waited in said] == ["waited=no", "waited=yes"]
    assert {way for way, _ in said} <= {"sandbox=own", "sandbox=template"}


async def test_a_trial_that_failed_is_repeated(
    need: Callable[[str], str], open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr("streamer.sandbox.registry.RETRY_S", 0.05)

    async def fail(_: Sandbox, run: Run) -> None:
        run.stdio.close()
        raise SandboxFailure("not on a busy machine")

    with monkeypatch.context() as busy:
        busy.setattr(Sandbox, "hold", fail)
        service = await open_service("bwrap", sandbox=WARM)
        assert service.worker.pool is not None
        ahead = service.worker.pool.held
        async with asyncio.timeout(20):
            while ahead.why_not("bwrap") != "not on a busy machine":
                await asyncio.sleep(0.01)
    async with asyncio.timeout(20):
        while ahead.why_not("bwrap"):
            await asyncio.sleep(0.01)


async def test_the_record_of_a_job_does_not_tell(service: Parts) -> None:
    documents = []
    for _ in range(2):
        job = await service.jobs.submit(JobSpec(language="python", code="print('x')"))
        ran = await ended(job)
        policy = (await job.view()).job.policy
        documents.append((policy, {event.kind for event in ran.events}, ran.verdict))
        await held(service)
    assert documents[0] == documents[1]
    assert service.ahead().warm == 1


OWN: Mapping[str, Mapping[str, Any]] = {
    "arguments": {"args": ("a",)},
    "variables": {"env": {"SECRET": "x"}},
    "a file to run": {"entry": "other.py"},
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
async def test_nothing_is_kept_of_what_a_caller_gave(
    service: Parts, own: Mapping[str, Any]
) -> None:
    for _ in range(2):
        ran = await run_job(
            service, language="python", code="import sys; print(sys.argv[1:])", **own
        )
        assert ran.verdict == "exited 0"
    assert wanted(service) == {None}
    assert service.ahead().warm == 0


async def test_neither_commands_nor_compiled_programs_are_kept(service: Parts) -> None:
    await run_job(service, command=("python3", "-c", "pass"))
    if "c" in service.worker.host.languages.available:
        await run_job(service, language="c", code="int main(void) { return 0; }")
    assert wanted(service) == {None}


@pytest.mark.parametrize(
    "language",
    [one.name for one in DEFAULT_RUNTIMES.values() if one.warm and not one.compile],
)
async def test_each_language_has_what_it_needs(service: Parts, language: str) -> None:
    if language not in service.worker.host.languages.available:
        pytest.skip(f"{language} is not installed")
    for count in range(2):
        ran = await run_job(service, language=language, code=SCRIPTS[language].hello)
        assert (ran.verdict, ran.out) == ("exited 0", "hello\n")
        await held(service)
        assert service.ahead().warm == count


async def test_what_a_language_needs_of_the_host_is_there(
    need: Callable[[str], str], open_service: OpenService
) -> None:
    need("bwrap")
    needy = replace(DEFAULT_RUNTIMES["python"], read_only=("/opt",), etc=("shells",))
    service = await open_service("bwrap", runtimes=(needy,), sandbox=WARM)
    code = "import os; print(os.path.isdir('/opt'), os.path.isfile('/etc/shells'))"
    for count in range(2):
        ran = await run_job(service, language="python", code=code)
        assert ran.out == "True True\n"
        await held(service)
        assert service.ahead().warm == count


async def test_a_program_on_a_terminal_is_started_for_its_job(service: Parts) -> None:
    for count in range(2):
        ran = await run_job(
            service, language="python", code="print(input('? '))", stdin=b"a\r", terminal=SIZE
        )
        assert ran.verdict == "exited 0"
        assert ran.text().endswith("a\r\n")
        assert wanted(service) == {None}
        await held(service)
        assert (service.ahead().warm, service.ahead().opened) == (0, count)


async def test_packages_that_a_job_brings_are_found(service: Parts) -> None:
    await run_job(service, language="python", code="pass")
    await held(service)
    packages = "import site; print(site.getusersitepackages())"
    ran = await run_job(service, language="python", code=packages)
    folder = ran.out.strip().partition("/.local/")[2]
    await held(service)
    module = SourceFile(f".local/{folder}/brought.py", b"")
    ran = await run_job(
        service, language="python", code="import brought; print('found')", files=(module,)
    )
    assert ran.out == "found\n"


async def test_files_that_take_much_of_the_memory_are_written_first(service: Parts) -> None:
    await run_job(service, language="python", code="pass", limits={"memory_bytes": "64MiB"})
    await held(service)
    large = SourceFile("large", bytes(20 * 2**20))
    code = "import os; print(os.path.getsize('large'))"
    ran = await run_job(
        service, language="python", code=code, files=(large,), limits={"memory_bytes": "64MiB"}
    )
    assert ran.out == f"{20 * 2**20}\n"
    assert service.ahead().warm == 0


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        ("import time; time.sleep(60)", {"wall_time_s": 0.5}, "wall_time"),
        ("while True: pass", {"cpu_time_s": 0.5}, "cpu_time"),
        ("x = []\nwhile True: x.append(bytearray(10**7))", {"memory_bytes": "64MiB"}, "memory"),
        ("while True: print('x' * 1000)", {"output_bytes": 1000}, "output_limit"),
    ],
)
async def test_limits_are_those_of_the_job(
    service: Parts, code: str, limits: Mapping[str, Any], reason: str
) -> None:
    for count in range(2):
        ran = await run_job(service, language="python", code=code, limits=limits)
        assert ran.complete.reason == reason
        await held(service)
        assert service.ahead().warm == count


async def test_a_job_is_cancelled_as_ever(service: Parts) -> None:
    await run_job(service, language="python", code="pass")
    await held(service)
    code = "import signal, time\nsignal.signal(15, lambda *a: print('heard') or exit(4))\nimport os; os.write(1, b'up\\n')\ntime.sleep(60)"
    job = await service.jobs.submit(JobSpec(language="python", code=code))
    async for event in job.events():
        if event.kind == "output":
            await job.cancel()
            break
    ran = await ended(job)
    assert ran.text() == "up\nheard\n"
    assert (ran.complete.reason, ran.complete.exit_code) == ("cancelled", 4)
    assert service.ahead().warm == 1


async def test_the_time_before_a_job_is_not_its_own(service: Parts) -> None:
    await run_job(service, language="python", code="pass")
    await held(service)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ran = await run_job(service, language="python", code="pass")
    assert ran.complete.duration_ms <= (loop.time() - began) * 1000
    assert ran.complete.cpu_time_ms
    assert service.ahead().warm == 1


async def test_an_interactive_job_is_talked_to(service: Parts) -> None:
    for count in range(2):
        code = "print(input('name? '))"
        job = await service.jobs.submit(JobSpec(language="python", code=code, interactive=True))
        async for event in job.events():
            if event.kind == "output":
                break
        await job.write(b"Ada\n")
        ran = await ended(job)
        assert ran.text() == "name? Ada\n"
        await held(service)
        assert service.ahead().warm == count


async def test_languages_and_services_may_refuse(
    need: Callable[[str], str], open_service: OpenService
) -> None:
    need("bwrap")
    cold = Runtime("cold", ("python3", "{entry}"), entry="main.py", warm=False)
    for sandbox, language, kept in ((WARM, "cold", {None}), ({"warm": False}, "python", set())):
        service = await open_service("bwrap", runtimes=(cold,), sandbox=sandbox)
        for _ in range(2):
            assert (await run_job(service, language=language, code="print(1)")).out == "1\n"
        assert wanted(service) == kept
        ahead = service.ahead()
        assert (ahead.warm, ahead.opened + ahead.cold) == (0, 2)


async def test_a_drain_ends_what_is_held(service: Parts) -> None:
    await run_job(service, language="python", code="pass")
    await held(service)
    await service.drain(1)
    async with asyncio.timeout(20):
        while any(name.startswith("python3") for name in descendants().values()):
            await asyncio.sleep(0.01)
    assert service.ahead().held == {}


async def test_callers_see_how_many_are_held(need: Callable[[str], str], start: Start) -> None:
    need("bwrap")
    client = await start()

    async def figures() -> dict[str, str]:
        async with client.get("/metrics") as response:
            text = await response.text()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")

    async def of_bwrap() -> tuple[int, str | None]:
        async with client.get("/api/sandboxes") as response:
            listed = (await response.json())["sandboxes"]
        return next((one["held"], one["notHeld"]) for one in listed if one["name"] == "bwrap")

    assert (await figures())["streamer_sandboxes_held"] == "0"
    assert (await of_bwrap())[0] == 0
    await submit(client, language="python", code="pass")
    async with asyncio.timeout(20):
        while (await figures())["streamer_sandboxes_held"] != "1":
            await asyncio.sleep(0.02)
    assert await of_bwrap() == (1, None)
    assert (await figures())['streamer_sandboxes_lent_total{ahead="nothing"}'] == "1"
    pool = parts_of(client).worker.pool
    assert pool
    pool.held.tried("bwrap", "/srv/secret: no")
    assert "streamer doctor" in ((await of_bwrap())[1] or "")

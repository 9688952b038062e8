"""No program can tell whether it was started before its job: each runs both ways."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.model.events import Complete, Output
from tests.conftest import OpenService
from tests.fork import FORKING, fork_at_once
from tests.running import Ran, ended
from tests.sandbox.forking import need_forks
from tests.warm import hold_each
from tests.warmed.case import Case
from tests.warmed.python import PYTHON
from tests.warmed.shell import BASH, JAVASCRIPT

pytestmark = pytest.mark.slow

TABLES: Final[Mapping[str, Mapping[str, Case]]] = {
    "python": PYTHON,
    "bash": BASH,
    "javascript": JAVASCRIPT,
}
ADDRESS: Final = re.compile(rb"0x[0-9a-f]{6,}")
FOLDER: Final = re.compile(rb"streamer-[a-z0-9_]{8}")
"""The name of a service's folder, which /proc/self/mountinfo has."""
PARTS: Final = 4
HELD_S: Final = 60.0
"""Each of these programs comes to where it is held, however busy the machine is."""
AT_ONCE: Final = 2


def test_there_are_many() -> None:
    assert sum(map(len, TABLES.values())) >= 200


def told(ran: Ran) -> dict[str, Any]:
    """Return all of a job's events that do not depend on time or chance."""
    streams = {"stdout": b"", "stderr": b""}
    for event in ran.events:
        if isinstance(event.data, Output):
            streams[event.data.stream] += base64.b64decode(event.data.data)
    end = ran.end
    verdict: dict[str, Any] = {"verdict": ran.verdict}
    if isinstance(end, Complete):
        verdict |= {
            "exit": end.exit_code,
            "signal": end.signal,
            "reason": end.reason,
            "phase": end.phase,
            "timed out": end.timed_out,
            "killed": end.oom_killed,
            "truncated": end.output_truncated,
        }
        if end.oom_killed:
            # Whether the program sees that its child was killed, before we kill it too.
            for name in ("verdict", "exit", "signal"):
                del verdict[name]
        if end.output_truncated or end.reason in ("wall_time", "output_limit"):
            # How much was written until then is a matter of time.
            return {**verdict, "begins": streams["stdout"][:5]}
        verdict["bytes"] = end.output_bytes
    texts = {name: ADDRESS.sub(b"0x", text) for name, text in streams.items()}
    return {**verdict, **{name: FOLDER.sub(b"", text) for name, text in texts.items()}}


async def run_all(service: Parts, language: str, cases: Mapping[str, Case]) -> dict[str, Any]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def run(case: Case) -> dict[str, Any]:
        async with turn:
            return told(await ended(await service.jobs.submit(case.job(language))))

    results = await asyncio.gather(*map(run, cases.values()))
    return dict(zip(cases, results, strict=True))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["command", "template"])
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("language", TABLES)
async def test_a_program_cannot_tell(
    need: Callable[[str], str], open_service: OpenService, language: str, part: int, way: str
) -> None:
    need("bwrap")
    cases = dict([*TABLES[language].items()][part::PARTS])
    sandbox = {"bwrap": {"template": way == "template"}}
    cold = await open_service("bwrap", sandbox=sandbox)
    if language not in cold.worker.host.languages.available:
        pytest.skip(f"{language} is not installed")
    warm = await open_service("bwrap", sandbox=sandbox)
    assert warm.worker.pool is not None
    held = hold_each(warm.worker.pool, HELD_S)
    expected = await run_all(cold, language, cases)
    assert differences(expected, await run_all(warm, language, cases)) == {}
    assert held == [True] * sum(not case.has_packages for case in cases.values())


TELLING: Final[Mapping[str, tuple[bytes, bytes]]] = {
    "sees memory mappings": (b"'/memfd:init', ", b""),
    "sees stat in /proc": (b"'flags': '4194368'", b"'flags': '4194304'"),
}
"""All that tells a forked program: our library, and that the kernel knows it as a fork
(PF_FORKNOEXEC)."""


async def trial_of_forks(service: Parts) -> None:
    assert service.worker.pool is not None
    async with asyncio.timeout(30):
        while service.worker.pool.forks.why_not("bwrap", "python"):
            await asyncio.sleep(0.01)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("waits", [False, True], ids=["with its job", "before"])
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_forked_program_cannot_tell(
    need: Callable[[str], str], open_service: OpenService, part: int, *, waits: bool
) -> None:
    need("bwrap")
    need_forks()
    cases = dict([*PYTHON.items()][part::PARTS])
    cold = await open_service("bwrap", sandbox={"bwrap": {"template": True}})
    forking = await open_service("bwrap", runtimes=(FORKING,))
    assert forking.worker.pool is not None
    await trial_of_forks(forking)
    fork_at_once(forking.worker.pool)
    if waits:
        hold_each(forking.worker.pool)
    before = forking.ahead().forked
    expected = await run_all(cold, "python", cases)
    found = await run_all(forking, "python", cases)
    for name in TELLING.keys() & cases.keys():
        mark, usual = TELLING[name]
        assert mark in found[name]["stdout"]
        found[name]["stdout"] = found[name]["stdout"].replace(mark, usual)
        found[name]["bytes"] = expected[name]["bytes"]
    assert differences(expected, found) == {}
    plain = [case for case in cases.values() if not (case.args or case.env or case.entry)]
    assert forking.ahead().forked - before == sum(not case.has_packages for case in plain)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            key: (value, other[name].get(key))
            for key, value in told.items()
            if value != other[name].get(key)
        }
        for name, told in one.items()
        if told != other[name]
    }


CHANCE: Final[Mapping[str, str]] = {
    "python": """
import random
print(hash("x"), id(object()), random.random(), sep="\\n")
for line in open("/proc/self/maps"):
    if "[stack]" in line or "[heap]" in line:
        print(line.partition("-")[0])
""",
    "bash": """
echo $RANDOM$RANDOM$RANDOM
while IFS=- read -r from rest; do
    case $rest in *stack* | *heap*) echo $from ;; esac
done </proc/self/maps
""",
    "javascript": """
console.log(Math.random())
console.log(crypto.randomUUID())
for (const line of require("fs").readFileSync("/proc/self/maps", "utf8").split("\\n"))
    if (/stack|heap/.test(line)) console.log(line.split("-")[0])
""",
}
"""Programs that print a fact a line, each of which could be that of another program."""


@pytest.mark.parametrize("language", CHANCE)
async def test_chance_is_each_programs_own(
    need: Callable[[str], str], open_service: OpenService, language: str
) -> None:
    need("bwrap")
    service = await open_service("bwrap")
    if language not in service.worker.host.languages.available:
        pytest.skip(f"{language} is not installed")
    assert service.worker.pool is not None
    held = hold_each(service.worker.pool, HELD_S)
    case = Case(CHANCE[language])
    jobs = [told(await ended(await service.jobs.submit(case.job(language)))) for _ in range(2)]
    assert held == [True, True]
    one, other = (job["stdout"].split() for job in jobs)
    assert len(one) == len(other) >= 3, jobs
    assert not set(one) & set(other)

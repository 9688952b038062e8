"""A job that attacks the host ends by its own limit, and its neighbour does not notice."""

from __future__ import annotations

import asyncio
import os

import pytest

from streamer.testing.running import SLOWNESS
from tests.backends.conftest import Run, checked_runs
from tests.conftest import OpenService, Start
from tests.running import program
from tests.support import follow, run, submit, text, verdict

FORKS = """
import os
print("up", flush=True)
while True:
    try:
        if os.fork() == 0:
            SESSION
    except OSError:
        pass
"""
ATTACKS = {
    "forks": (FORKS.replace("SESSION", "pass"), "cpu_time"),
    "forks in sessions": (FORKS.replace("SESSION", "os.setsid()"), "cpu_time"),
    "memory": (
        "print('up', flush=True)\nkept = []\nwhile True:\n    kept.append(bytearray(10_000_000))",
        "memory",
    ),
    "disk": (
        """
print("up", flush=True)
number = 0
while True:
    number += 1
    try:
        with open(f"file{number}", "wb") as file:
            file.write(bytes(1_000_000))
    except OSError:
        pass
""",
        "disk",
    ),
    "output": ("while True:\n    print('x' * 1000)", "output_limit"),
}
NEIGHBOUR = """
total = 0
for part in range(10):
    for number in range(50_000):
        total += number * number % 7
    print(part, total, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("cgroup", ["auto", "off"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_attack_ends_by_its_own_limit_beside_a_job_that_goes_on(
    start: Start, isolating_backend: str, attack: str, cgroup: str
) -> None:
    client = await start(
        sandbox={"backend": isolating_backend, "cgroup": cgroup}, queue={"concurrency": 2}
    )
    alone = text(await run(client, language="python", code=NEIGHBOUR))
    code, reason = ATTACKS[attack]
    limits: dict[str, float] = {"cpuTimeS": 4, "wallTimeS": 100}
    if reason == "memory":
        limits["cpuTimeS"] = 4 * SLOWNESS  # to fill it takes time that is not what is tested
    else:
        # What the kernel holds for a bomb's processes counts too, and now and then was enough.
        limits["memoryBytes"] = 2**30
    attacker = await submit(client, language="python", code=code, limits=limits)
    ending = asyncio.create_task(follow(client, attacker))
    runs = 0
    while not runs or not ending.done():
        events = await run(client, language="python", code=NEIGHBOUR)
        assert verdict(events)["reason"] == "exited", events
        assert text(events) == alone
        async with client.get("/healthz") as response:
            assert response.status == 200
        runs += 1
    assert verdict(await ending)["reason"] == reason


@pytest.fixture
async def uncontrolled(open_service: OpenService, backend: str) -> Run:
    """Return a function that runs a job where no control group shares the processors."""
    service = await open_service(backend, sandbox={"cgroup": "off"})
    async for checked in checked_runs(service):
        return checked
    raise AssertionError


BUSY = """
    import os, time
    children = []
    for _ in range({COUNT}):
        child = os.fork()
        if child == 0:
            os.setsid()
            while True:
                pass
        children.append(child)
    def priorities():
        return [os.getpriority(os.PRIO_PROCESS, child) for child in children]
    {WAIT}
    print(priorities())
"""


async def test_a_crowd_of_processes_gets_the_share_of_one(uncontrolled: Run) -> None:
    count = 3 * (os.cpu_count() or 1) + 2
    wait = "while 0 in priorities(): time.sleep(0.02)"
    source = BUSY.replace("{COUNT}", str(count)).replace("{WAIT}", wait)
    ran = await uncontrolled(**program(source), limits={"processes": 500})
    assert ran.complete.exit_code == 0, ran.events
    # 1.25 to this power is the number of processes.
    assert all(5 <= int(nice) <= 19 for nice in ran.text().strip("[]\n").split(","))


async def test_a_few_processes_keep_their_priority(uncontrolled: Run) -> None:
    source = BUSY.replace("{COUNT}", "2").replace("{WAIT}", "time.sleep(0.7)")
    assert (await uncontrolled(**program(source))).out == "[0, 0]\n"

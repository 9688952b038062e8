"""Each limit ends its job while as many others wait as this machine has room for, up to 200.

The jobs have themselves waited before, so their init has looked at them seldom.
"""

from __future__ import annotations

import asyncio
import os
import resource
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.jobs.job import Job
from streamer.model.events import Output
from streamer.model.job import JobSpec
from streamer.testing.conformance.limits import FORK_MANY
from streamer.testing.running import SLOWNESS
from tests.backends.test_unseen import EMPTY_FILES, UNREAPED
from tests.conftest import OpenService
from tests.running import ended, program

MIB: Final = 2**20
MOST: Final = 200
BYTES_EACH: Final = 8 * MIB
"""What a sandbox whose program sleeps takes of the host, at most."""
PROCESSES_EACH: Final = 5
DESCRIPTORS_EACH: Final = 20

WAITS: Final = ("sh", "-c", "echo waits; exec sleep 600")

TREE_TAKES: Final = """
    import os, time
    for _ in range(8):
        if os.fork() == 0:
            kept = os.urandom(2**24)
            time.sleep(600)
    time.sleep(600)
"""
FILLS: Final = """
    import time
    while True:
        try:
            with open("file", "ab") as file:
                file.write(bytes(2**20))
        except OSError:
            time.sleep(1)
"""
SPINS: Final = """
    import os
    for _ in range(3):
        os.fork()
    while True:
        pass
"""
ATTACKS: Final[Mapping[str, tuple[str, Mapping[str, float], str]]] = {
    "memory": (
        "kept = [bytearray(b'x' * 2**20) for _ in range(2000)]",
        {"memory_bytes": 64 * MIB},
        "memory",
    ),
    "memory of a tree": (TREE_TAKES, {"memory_bytes": 100 * MIB}, "memory"),
    "CPU time of a tree": (SPINS, {"cpu_time_s": 1.0}, "cpu_time"),
    "CPU time that nobody reaps": (
        UNREAPED.replace("{LIFE}", "0.03"),
        {"cpu_time_s": 1.0},
        "cpu_time",
    ),
    "bytes on disk": (FILLS, {"disk_bytes": 32 * MIB, "file_bytes": 64 * MIB}, "disk"),
    "files": (EMPTY_FILES.replace("{FOLDER}", "."), {"disk_bytes": 40 * MIB}, "disk"),
    "wall time": ("import time; time.sleep(600)", {"wall_time_s": 1.0}, "wall_time"),
    "processes": (FORK_MANY, {"processes": 32}, "exited"),
}


def room() -> int:
    """Return how many sandboxes this machine has room for."""
    meminfo = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
    available = int(meminfo.split()[0]) * 1024 - 1024 * MIB
    bounds = [MOST, available // 2 // BYTES_EACH]
    for limit, each in (
        (resource.RLIMIT_NOFILE, DESCRIPTORS_EACH),
        (resource.RLIMIT_NPROC, PROCESSES_EACH),
    ):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            bounds.append(soft // 2 // each)
    return min(bounds)


@pytest.fixture
def descriptors_enough() -> Iterator[None]:
    """Allow this process as many descriptors as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def until_it_says(job: Job, text: str) -> None:
    async for event in job.events():
        if isinstance(event.data, Output):
            assert event.data.data == text, event
            return
    raise AssertionError("it has ended")


async def begun(service: Parts, source: str, limits: Mapping[str, Any]) -> Job:
    """Start a program that waits for a line before it does something."""
    waits = 'import sys\nprint("waits", flush=True)\nsys.stdin.readline()\n'
    return await service.jobs.submit(
        JobSpec(
            **program(waits + textwrap.dedent(source)),
            limits={"wall_time_s": 300 * SLOWNESS, **limits},
            interactive=True,
        )
    )


@pytest.mark.timeout(300)
# Two at a time would need more users than root's services have.
@pytest.mark.one_at_a_time("all-users")
@pytest.mark.parametrize("cgroup", ["auto", "off"])
@pytest.mark.usefixtures("descriptors_enough")
async def test_limits_hold_beside_many_jobs_that_wait(
    open_service: OpenService, backend: str, cgroup: str
) -> None:
    number = room()
    assert number >= (os.cpu_count() or 1), "there is room for hardly any job"
    service = await open_service(
        backend,
        sandbox={"cgroup": cgroup},
        queue={"concurrency": number + len(ATTACKS)},
        limits={"max": {"wall_time_s": 600 * SLOWNESS}},
    )
    waiting = [
        await service.jobs.submit(JobSpec(command=WAITS, limits={"wall_time_s": 600 * SLOWNESS}))
        for _ in range(number)
    ]
    await asyncio.gather(*(until_it_says(job, "waits\n") for job in waiting))
    attacks = {
        name: await begun(service, source, limits)
        for name, (source, limits, _) in ATTACKS.items()
        if name != "wall time"
    }
    await asyncio.gather(*(until_it_says(job, "waits\n") for job in attacks.values()))
    source, limits, _ = ATTACKS["wall time"]
    attacks["wall time"] = await begun(service, source, limits)
    for job in attacks.values():
        await job.write("go\n")
    for name, job in attacks.items():
        ran = await ended(job)
        assert ran.complete.reason == ATTACKS[name][2], (name, ran.events)
        if name == "processes":
            made = int(ran.out.removeprefix("waits\n"))
            assert 29 <= made <= 31
    assert {(await job.view()).state for job in waiting} == {"running"}
    for job in waiting:
        await job.cancel()
    assert {(await ended(job)).complete.reason for job in waiting} == {"cancelled"}

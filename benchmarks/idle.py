"""Measure what the init of a sandbox costs while its job waits.

    python -m benchmarks.idle [JOBS] [SECONDS] [streamer serve's options]

Starts jobs that sleep, then jobs that print 100 lines a second, with control groups and without,
and prints the CPU time that an init and a program use, in milliseconds a second and job. Compare
two versions on one machine in turns, as ratios.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.neighbours import server
from streamer import Client
from streamer.testing.processes import descendants

LIMITS: Final = {"wallTimeS": 300.0}
PROGRAMS: Final = {
    "idle": "import time\ntime.sleep(300)",
    "100 lines/s": "import time\nwhile True:\n    print(time.time(), flush=True)\n"
    "    time.sleep(0.01)",
}
SETTLES_S: Final = 2.0

INIT: Final = (("init", "streamer-init"), " serve ")
PROGRAM: Final = (("python", "python3"), " main.py ")


def processes(names: tuple[str, ...], words: str) -> set[int]:
    """Return our descendants of these names that have these words in their command line."""
    found = set()
    for pid, name in descendants().items():
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if name in names and words in command:
                found.add(pid)
    return found


def cpu_s(pids: set[int]) -> float:
    """Return the CPU time of processes (clock_getcpuclockid(3))."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


async def measure(
    jobs: int, seconds: float, code: str, options: Sequence[str]
) -> tuple[float, ...]:
    """Return the milliseconds of CPU time a second and job of the inits and of the programs."""
    room = [f"queue.{name}={jobs}" for name in ("concurrency", "max_running_per_client")]
    room += [f"queue.{name}=1000" for name in ("max_waiting", "max_per_client")]
    room += ["server.drain_s=0", "logging.level=warning"]
    # The inits of a template's sandboxes have its command line.
    room.append("sandbox.bwrap.template=false")
    sets = [word for setting in room for word in ("--set", setting)]
    async with server([*sets, *options]) as url, Client(url) as client:
        for _ in range(jobs):
            await client.submit(language="python", code=code, limits=LIMITS)
        programs: set[int] = set()
        while len(programs) < jobs:
            await asyncio.sleep(0.5)
            programs = processes(*PROGRAM)
        inits = processes(*INIT)
        assert len(inits) == jobs, f"{len(inits)} inits of {jobs} jobs"
        await asyncio.sleep(SETTLES_S)
        before, started = (cpu_s(inits), cpu_s(programs)), time.perf_counter()
        await asyncio.sleep(seconds)
        after, took = (cpu_s(inits), cpu_s(programs)), time.perf_counter() - started
    return tuple((b - a) * 1e3 / took / jobs for a, b in zip(before, after, strict=True))


async def main(jobs: int, seconds: float, options: Sequence[str]) -> None:
    print(f"{jobs} jobs, {os.cpu_count()} cores, uid {os.getuid()}, {' '.join(options)}")
    print(f"{'':28}{'init ms/s':>10}{'program ms/s':>14}")
    for name, code in PROGRAMS.items():
        for groups in ("auto", "off"):
            init, program = await measure(
                jobs, seconds, code, ["--set", f"sandbox.cgroup={groups}", *options]
            )
            print(f"{f'{name}, cgroup={groups}':28}{init:10.3f}{program:14.3f}", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    numbers = [float(given.pop(0)) for _ in range(2) if given and given[0].isdigit()]
    count, duration = (*numbers, *(200.0, 5.0)[len(numbers) :])
    asyncio.run(main(int(count), duration, given))

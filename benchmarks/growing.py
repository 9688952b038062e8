"""How the jobs a second of a service grow with its workers, for jobs that sleep.

    python -m benchmarks.growing [--jobs 120] [--sleep-s 0.5]

Jobs that sleep need no processor, so what grows is what workers add, not what this machine has.
Each number of workers has a fleet of its own: two API nodes, one Redis server, and four places a
worker.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from typing import Final

from benchmarks.chaos import Caller, Task
from benchmarks.fleet import fleet

__all__: list[str] = []

PLACES: Final = 4


async def rate(workers: int, jobs: int, sleep_s: float) -> float:
    """Return the jobs a second of so many workers, once all have run jobs."""
    async with fleet(15.0, workers=workers, places=PLACES) as parts:
        caller = Caller(parts.apis, random.Random(1))

        async def run(number: int) -> None:
            task = Task(f"job{number}", lines=1, pause_s=sleep_s, retry=0)
            await caller.submit(task)
            await caller.follow(task, task.told[0])
            assert task.told[0][-1].data.get("exitCode") == 0, task.told[0][-1]

        try:
            await asyncio.gather(*(run(-number) for number in range(workers * PLACES)))
            began = time.monotonic()
            await asyncio.gather(*map(run, range(jobs)))
            return jobs / (time.monotonic() - began)
        finally:
            await caller.close()


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--sleep-s", type=float, default=0.5)
    given = parser.parse_args()
    first = None
    for workers in (1, 2, 3):
        found = asyncio.run(rate(workers, given.jobs, given.sleep_s))
        first = first or found
        most = workers * PLACES / given.sleep_s
        print(
            f"{workers} workers: {found:.1f} jobs/s, {found / first:.2f}x, of {most:.0f} possible"
        )


if __name__ == "__main__":
    main()

"""Run thousands of attacks against one service and check whether anything is left of them.

    python -m benchmarks.soak [--jobs 5000] [--backend bwrap] [--seed 1]

The jobs are chosen at random from the attacks of `streamer.testing`, slow ones less often; twice as
many run at a time as there are processors. Before and after, with the logs purged, it counts the
descendants of this process, its descriptors and memory, the control groups in use, the mounts of
the host, and the files in the service's folder and in the host's temporary folders. It exits with 1
if there is more of anything than before, or if an attack broke a promise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamer.plugins import load_backends, load_plugins
from streamer.sandbox.cgroups.files import pids
from streamer.spi import Backend
from streamer.testing.attack import Attack
from streamer.testing.attacks import THEMES
from streamer.testing.campaign import Campaign, open_campaign
from streamer.testing.processes import kept_besides

MIB = 1024 * 1024
MEMORY_TOLERANCE = 32 * MIB
"""Memory that the allocator keeps after the largest outputs."""
SLOW_THEMES = (
    "Disk, files and output",
    "Memory",
    "Other jobs",
    "Processor and processes",
    "Staying alive",
    "While compiling",
)
SHORT = {"streams": {"retention_s": 5}}
OURS = ("note-", "neighbour-")
"""Prefixes of the names that attacks create in the host's shared folders, if they can."""


@dataclass(frozen=True)
class Census:
    """What exists while no job runs: sets of names, and bytes of memory."""

    processes: frozenset[str]
    descriptors: int
    groups: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    memory: int

    def more_than(self, before: Census) -> list[str]:
        """Return what has increased, as messages."""
        found = []
        for what in ("processes", "groups", "mounts", "files"):
            new = getattr(self, what) - getattr(before, what)
            if new:
                found.append(f"{what}: {sorted(new)[:10]}")
        if self.descriptors > before.descriptors:
            found.append(f"descriptors: {self.descriptors - before.descriptors} more")
        if self.memory > before.memory + MEMORY_TOLERANCE:
            found.append(f"memory: {(self.memory - before.memory) / MIB:.1f} MiB more")
        return found


async def census(campaign: Campaign) -> Census:
    """Take a census. Waits until no job is running."""
    engine = campaign.service.engine
    while (await engine.stats()).running:  # noqa: ASYNC110 - it tells nobody when it is idle
        await asyncio.sleep(0.01)
    while jobs := await engine.jobs(tenant="", limit=100):
        for job in jobs:
            await engine.purge(job.job.job_id)
    gc.collect()
    pool = campaign.service.worker.pool
    groups = pool and pool.cgroups
    processes, files = kept_besides(pool)
    folders = (campaign.state, *map(Path, ("/tmp", "/var/tmp", "/dev/shm")))
    return Census(
        processes=frozenset(f"{pid} {name}" for pid, name in processes.items()),
        descriptors=len(files),
        # Empty ones are kept for later jobs, one for each place.
        groups=frozenset(
            str(path)
            for root in (groups.roots if groups else ())
            for number, path in enumerate(root.glob("*/"))
            if number >= campaign.service.worker.places or pids(path)
        ),
        mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
        files=frozenset(
            [str(path) for path in campaign.state.rglob("*")]
            + [str(p) for f in folders[1:] for p in f.glob("*") if p.name.startswith(OURS)]
        ),
        memory=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    )


def draw(jobs: int, seed: int) -> Sequence[Attack]:
    """Return this many attacks at random, slow ones less often."""
    attacks, weights = [], []
    for theme, group in THEMES.items():
        for attack in group:
            attacks.append(attack)
            weights.append((0.1 if theme in SLOW_THEMES else 1) * (0.2 if attack.alone else 1))
    return random.Random(seed).choices(attacks, weights, k=jobs)


async def soak(backend: type[Backend], jobs: int, seed: int) -> tuple[Census, Census, Counter[str]]:
    """Run the jobs; return the census before and after, and how jobs ended.

    Broken promises are counted under ``broken: NAME``.
    """
    lanes = 2 * (os.cpu_count() or 1)
    ends: Counter[str] = Counter()
    async with open_campaign(backend, lanes=lanes, config=SHORT) as campaign:
        # After a first round everything is loaded and every cache has its size.
        warm = draw(max(20, jobs // 20), seed + 1)
        before: Census | None = None
        for drawn in (warm, draw(jobs, seed)):
            if drawn is not warm:
                before = await census(campaign)
            waiting = iter(drawn)
            await asyncio.gather(*(work(campaign, waiting, ends) for _ in range(lanes)))
        assert before is not None
        after = await census(campaign)
        ends.update(campaign.service.measures.outcomes)
    return before, after, ends


async def work(campaign: Campaign, waiting: Iterator[Attack], ends: Counter[str]) -> None:
    """Run attacks one after another until there are no more."""
    for attack in waiting:
        try:
            outcome = await campaign.attempt(attack)
        except AssertionError as failure:
            ends[f"broken: {attack.name}: {str(failure)[:200]}"] += 1
            continue
        if outcome.faults:
            ends[f"broken: {attack.name}: {'; '.join(outcome.faults)[:200]}"] += 1


def main() -> None:
    """Print the figures; the exit code says whether anything is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--backend", default="bwrap")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    backend = type(load_backends(load_plugins(), {})[given.backend])
    started = time.perf_counter()
    before, after, ends = asyncio.run(soak(backend, given.jobs, given.seed))
    seconds = time.perf_counter() - started
    broken = {end: count for end, count in ends.items() if end.startswith("broken")}
    jobs = sum(ends.values()) - sum(broken.values())
    print(f"{given.backend}: {jobs} jobs in {seconds:.0f} s, {jobs / seconds:.1f} a second")
    for end, count in ends.most_common():
        print(f"  {end}: {count}")
    for what in ("processes", "groups", "mounts", "files"):
        print(f"{what}: {len(getattr(before, what))} before, {len(getattr(after, what))} after")
    print(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    print(f"memory: {before.memory / MIB:.1f} MiB before, {after.memory / MIB:.1f} after")
    left = after.more_than(before)
    print("\n".join(["LEFT:", *left]) if left else "nothing is left")
    sys.exit(1 if left or broken else 0)


if __name__ == "__main__":
    main()

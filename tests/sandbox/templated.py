"""Pools with templates, and sandboxes that must come from one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from sandboxes.bwrap import Bwrap
from sandboxes.plain import Plain
from streamer.model.job import Limits
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Run, RunEnd, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import Backend, LaunchPlan, SandboxJob
from tests.running import adopt_orphans, descendants, descriptors

MIB = 1024 * 1024
LIMITS = Limits(wall_time_s=60)
SHAPE = Shape("bwrap", LIMITS)
PLAN = Bwrap.plan


@contextlib.contextmanager
def pool_of(
    backend: Backend | None = None,
    cgroup: str = "auto",
    places: int = 2,
    forks: ForkBounds | None = None,
) -> Iterator[Pool]:
    """Open a pool whose templates count as tested."""
    bwrap = Bwrap() if backend is None else backend
    with open_pool(
        {"bwrap": bwrap, "plain": Plain()},
        state_dir="",
        cgroup=cgroup,
        cpu_weight=12,
        uid_base=60706,
        places=places,
        users=places,
        strict_filter=False,
        forks=forks,
    ) as pool:
        pool.templates.tried(bwrap.name, "")
        yield pool


@asynccontextmanager
async def checked_pool(cgroup: str) -> AsyncIterator[Pool]:
    """Open a pool, and see that it leaves nothing when it is closed."""
    adopt_orphans()
    before = descendants(), descriptors()
    with pool_of(cgroup=cgroup) as pool:
        yield pool
        await pool.close()
        assert descendants() == before[0]
    assert descriptors() == before[1]


@asynccontextmanager
async def lent(pool: Pool, shape: Shape = SHAPE) -> AsyncIterator[Sandbox]:
    """Borrow a sandbox that must come from a template, and leave nothing but that."""
    sandbox = await pool.lend(shape)
    try:
        assert sandbox.from_template
        yield sandbox
    finally:
        await sandbox.close()


async def told(sandbox: Sandbox, script: str, limits: Limits = LIMITS) -> tuple[RunEnd, str]:
    """Run a program in Python to its end; return that, and what it has printed."""
    stdio = Stdio.pipes()
    try:
        argv = ("/usr/bin/python3", "-I", "-c", script)
        running = await sandbox.run(Run(argv, {"PATH": "/usr/bin:/bin"}, limits, stdio))
        await running.exited
        sandbox.end_rest()
        end = await running.ended
        with contextlib.suppress(BlockingIOError):
            assert os.read(stdio._ours["stderr"], 65536).decode() == ""
        return end, os.read(stdio._ours["stdout"], 65536).decode()
    finally:
        stdio.close()


def powerless(self: Bwrap, job: SandboxJob, workspace: Path) -> LaunchPlan:
    """Plan as bwrap does where a profile of AppArmor denies the init its capability."""
    plan = PLAN(self, job, workspace)
    at = plan.argv.index("--cap-add")
    return replace(plan, argv=(*plan.argv[:at], *plan.argv[at + 2 :]))


def init_of(pids: frozenset[int]) -> int:
    """Return the template itself of these processes, and not its wrapper."""
    (init,) = (pid for pid, name in descendants().items() if pid in pids and name == "init")
    return init


async def until_ended(pool: Pool, pids: frozenset[int]) -> None:
    async with asyncio.timeout(20):
        while pool.templates.pids & pids:
            await asyncio.sleep(0.01)
    assert not descendants().keys() & pids

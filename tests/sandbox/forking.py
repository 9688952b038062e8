"""Pools whose programs are forked from an interpreter, and running one in them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import pytest

from streamer.model.job import Limits, SourceFile
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox, Way
from streamer.sandbox.shape import Fork, Program, Run, Shape
from streamer.sandbox.stdio import Stdio
from tests.running import adopt_orphans, descendants, descriptors
from tests.sandbox.templated import LIMITS, pool_of

__all__ = [
    "ENV",
    "PROGRAM",
    "SHAPE",
    "Customize",
    "can_fork",
    "forking_pool",
    "holding",
    "need_forks",
    "program",
    "ran",
    "ran_in",
]

SHAPE: Final = Shape("bwrap", LIMITS)
ENV: Final[Mapping[str, str]] = {"PATH": "/usr/bin:/bin", "HOME": "", "LANG": "C.UTF-8"}

Customize = Callable[[str], tuple[Program, Shape]]
"""What the fixture `customized` returns."""


def can_fork() -> bool:
    """Return whether programs are forked on such a machine, with such a kernel."""
    if platform.machine() not in ("x86_64", "aarch64") or platform.libc_ver()[0] != "glibc":
        return False
    libc, size = ctypes.CDLL(None), ctypes.c_uint()
    set_mm, map_size = 35, 15  # unknown without CONFIG_CHECKPOINT_RESTORE
    return bool(libc.prctl(set_mm, map_size, ctypes.byref(size), 0, 0) == 0)


def need_forks() -> None:
    """Skip the test where programs are not forked."""
    if not can_fork():
        pytest.skip("programs are not forked on such a machine, or with such a kernel")


def program(
    *,
    argv: tuple[str, ...] = ("python3", "main.py"),
    env: Mapping[str, str] = ENV,
    limits: Limits = LIMITS,
    tenant: str = "",
) -> Program:
    return Program(argv, tuple(env.items()), limits, fork=Fork(tenant, "python"))


PROGRAM: Final = program()


@asynccontextmanager
async def forking_pool(
    bounds: ForkBounds | None = None, cgroup: str = "auto", places: int = 2
) -> AsyncIterator[Pool]:
    """Open a pool that forks programs from the second time on, and see that it leaves nothing."""
    need_forks()
    adopt_orphans()
    before = descendants(), descriptors()
    with pool_of(cgroup=cgroup, places=places, forks=bounds or ForkBounds()) as pool:
        pool.forks.tried("bwrap", "python", "")
        pool.forks.wanted(SHAPE, PROGRAM)
        yield pool
        await pool.close()
        assert descendants() == before[0]
    assert descriptors() == before[1]


async def ran(
    pool: Pool, code: str, what: Program = PROGRAM, shape: Shape | None = None
) -> tuple[Way, str]:
    """Run a program in a sandbox of its own; return who has made that, and what it has printed."""
    sandbox = await pool.lend(shape or replace(SHAPE, limits=what.limits), what)
    try:
        return sandbox.way, await ran_in(sandbox, code, what)
    finally:
        await sandbox.close()


async def holding(pool: Pool) -> Sandbox:
    """Return a sandbox in which the program waits for its job; the caller must close it."""
    sandbox = await pool.lend(SHAPE, PROGRAM)
    assert sandbox.way == "forked"
    await sandbox.hold(PROGRAM.run(sandbox.home, Stdio.pipes(with_input=True)))
    async with asyncio.timeout(20):
        await sandbox.held
    return sandbox


async def ran_in(
    sandbox: Sandbox, code: str, what: Program = PROGRAM, more: Sequence[SourceFile] = ()
) -> str:
    """Run a program in a sandbox with `more` files; return what it has printed."""
    await sandbox.put_files((SourceFile("main.py", code.encode()), *more), what.limits)
    stdio = sandbox.stdio(with_input=False)
    try:
        run: Run = what.run(sandbox.home, stdio)
        running = await sandbox.run(run)
        await running.exited
        sandbox.end_rest()
        end = await running.ended
        said = os.read(stdio._ours["stderr"], 65536).decode()
        assert (said, end.status) == ("", 0)
        return os.read(stdio._ours["stdout"], 65536).decode()
    finally:
        stdio.close()

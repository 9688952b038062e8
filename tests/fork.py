"""Fork every program of Python from an interpreter that runs already, whatever its job is."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from functools import partial
from typing import Any, Final

from streamer.errors import BackendUnavailable
from streamer.model.capabilities import NOT_TESTED
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Fork, Program, Shape
from tests.sandbox.forking import can_fork

__all__ = ["FORKING", "fork_at_once", "fork_each"]

PYTHON: Final = re.compile(r"(.*/)?python3?")
FORK: Final = Fork("", "python")
FORKING: Final = replace(DEFAULT_RUNTIMES["python"], fork=True)
"""The language with the setting."""


def fork_at_once(pool: Pool) -> None:
    """Fork programs that may be forked from their first job on."""
    pool.forks.tried("bwrap", FORK.language, "")
    real = pool.forks.wanted

    def wanted(shape: Shape, program: Program | None) -> None:
        for _ in range(2):
            real(shape, program)

    pool.forks.wanted = wanted  # type: ignore[method-assign]
    pool.templates._most = 1000


async def fork_each(pool: Pool) -> None:
    """Fork each program of Python, also that of a command; it is a failure if one is not.

    Raises `BackendUnavailable` where none is.
    """
    async with asyncio.timeout(60):
        while (why_not := pool.templates.why_not("bwrap")) == NOT_TESTED:
            await asyncio.sleep(0.01)
    if not can_fork():
        why_not = "programs are not forked on such a machine, or with such a kernel"
    if why_not:
        raise BackendUnavailable(why_not)
    fork_at_once(pool)
    pool.lend = partial(_lend, pool.lend)  # type: ignore[method-assign]


def _can_be_forked(program: Program) -> bool:
    words = program.argv[1:]
    # Without a file of the job's it would never come to where it waits.
    preloads = any(name.startswith("LD_") for name, _ in program.env)
    python = PYTHON.fullmatch(program.argv[0]) is not None
    return python and words[-1:] == ("main.py",) and not preloads


async def _lend(lend: Any, shape: Shape, program: Program | None = None, **options: Any) -> Sandbox:
    pool: Pool = lend.__self__
    # After a failure, which some tests are about, jobs do without for some seconds.
    pool.templates._retry_at.clear()
    pool.forks._retry_at.clear()
    forks = program is not None and _can_be_forked(program)
    if program is not None and forks:
        program = replace(program, fork=FORK)
    sandbox: Sandbox = await lend(shape, program, **options)
    if forks and not (sandbox.way == "forked" or shape.network):
        await sandbox.close()
        raise AssertionError("a program was not forked")
    return sandbox

"""Let every job of a service take over a program that was started before it came."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from streamer.errors import SandboxFailure
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Shape
from streamer.sandbox.stdio import Stdio

__all__ = ["hold_each"]

PATIENCE_S = 2.0
"""For a program that is held nowhere."""


def hold_each(pool: Pool) -> None:
    """Hold the first program of each job from now on, whatever it is: commands and compilers too."""
    pool.lend = partial(_lend, pool.lend)  # type: ignore[method-assign]


async def _lend(lend: Any, shape: Shape, program: Program | None = None, **options: Any) -> Sandbox:
    sandbox: Sandbox = await lend(shape, program, **options)
    if program is not None and not sandbox.waits:
        try:
            await sandbox.hold(program.run(sandbox.home, Stdio.pipes(with_input=True)))
            await asyncio.wait({sandbox.held}, timeout=PATIENCE_S)
        except SandboxFailure:
            await sandbox.close()
            raise
    return sandbox

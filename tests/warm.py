"""Let every job of a service take over a program that was started before it came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
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


def hold_each(pool: Pool, patience_s: float = PATIENCE_S) -> Sequence[bool]:
    """Hold the first program of each job from now on, whatever it is: commands and compilers too.

    Return a list that tells of each whether it was held, within `patience_s`.
    """
    waited: list[bool] = []
    pool.lend = partial(_lend, waited, patience_s, pool.lend)  # type: ignore[method-assign]
    return waited


async def _lend(
    waited: list[bool],
    patience_s: float,
    lend: Any,
    shape: Shape,
    program: Program | None = None,
    **options: Any,
) -> Sandbox:
    sandbox: Sandbox = await lend(shape, program, **options)
    if program is not None and not sandbox.waits:
        try:
            await sandbox.hold(program.run(sandbox.home, Stdio.pipes(with_input=True)))
            await asyncio.wait({sandbox.held}, timeout=patience_s)
        except SandboxFailure:
            await sandbox.close()
            raise
        waited.append(sandbox.held.done() and sandbox.held.exception() is None)
    return sandbox

"""Run the compiler and the program of a job in one sandbox, and keep the files that they leave."""

from __future__ import annotations

import contextlib

from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import StoredProject
from streamer.worker.artifacts import GONE
from streamer.worker.assignment import STOP_S, Assignment
from streamer.worker.compilation import STORE_S, Compilation
from streamer.worker.verdict import JobEnd, Outcome

__all__ = ["run_steps"]


async def run_steps(
    work: Assignment, compilation: Compilation, end: JobEnd, held: contextlib.AsyncExitStack
) -> Outcome:
    """Return why the last program ended; `end` gets the sum. `held` closes the sandbox.

    Raises `Stopped`, `FilesDoNotFit` and `SandboxFailure`.
    """
    job = work.job
    build = await compilation.found(held)
    sandbox = await work.opened(held)
    longest_s = sum(STOP_S + step.limits.wall_time_s for step in job.steps)
    work.expect_in(longest_s + STORE_S + job.limits.wall_time_s)
    await work.put_files(sandbox, build=build)
    reason = await _programs(work, compilation, sandbox, build, end)
    if job.artifacts and reason not in GONE:
        await work.collect(sandbox)
    return reason


async def _programs(
    work: Assignment,
    compilation: Compilation,
    sandbox: Sandbox,
    build: StoredProject | None,
    end: JobEnd,
) -> Outcome:
    if work.stop.reason is not None:
        return work.stop.reason
    compiles = compilation.needed and build is None
    if compiles:
        reason = await compilation.run(sandbox)
        if reason != "exited" or end.status != 0:
            return reason
        await compilation.keep(sandbox)
    if work.stop.reason is not None:
        return work.stop.reason
    await work.tell_state("running", sandbox, first=not compiles)
    step = work.job.steps[-1]
    result, reason = await work.run(sandbox, work.job, step)
    end.add(result, step.phase.value)
    return reason

"""Run the programs of a job one after another in one sandbox, until one does not exit with 0.

Then the files that it leaves are kept.
"""

from __future__ import annotations

import contextlib

from streamer.model.job import Phase
from streamer.sandbox.sandbox import Sandbox
from streamer.worker.artifacts import GONE
from streamer.worker.assignment import STOP_S, Assignment
from streamer.worker.verdict import JobEnd, Outcome

__all__ = ["run_steps"]


async def run_steps(work: Assignment, end: JobEnd, held: contextlib.AsyncExitStack) -> Outcome:
    """Return why the last program ended; `end` gets the sum. `held` closes the sandbox.

    Raises `Stopped`, `FilesDoNotFit` and `SandboxFailure`.
    """
    job = work.job
    sandbox = await work.opened(held)
    longest_s = sum(STOP_S + step.limits.wall_time_s for step in job.steps)
    work.expect_in(longest_s + job.limits.wall_time_s)
    await work.put_files(sandbox)
    reason = await _programs(work, sandbox, end)
    if job.artifacts and reason not in GONE:
        await work.collect(sandbox)
    return reason


async def _programs(work: Assignment, sandbox: Sandbox, end: JobEnd) -> Outcome:
    job = work.job
    for step in job.steps:
        if work.stop.reason is not None:
            return work.stop.reason
        first = step is job.steps[0]
        # Only now it is known how the sandbox was made.
        compiles = step.phase is Phase.COMPILE
        await work.tell_state("compiling" if compiles else "running", sandbox, first=first)
        result, reason = await work.run(sandbox, job, step)
        end.add(result, step.phase.value)
        if reason != "exited" or end.status != 0:
            return reason
    return "exited"

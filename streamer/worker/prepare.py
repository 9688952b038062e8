"""Open a job's sandbox, write its files, and start its proxy; each within a time limit."""

from __future__ import annotations

import contextlib
import logging
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.hosts import HostRule
from streamer.model.job import ResolvedJob
from streamer.sandbox.network.proxy import PROXY_PORT, Outbound, Proxy
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Fork, Program, Shape
from streamer.worker.program import environment
from streamer.worker.stop import Stop, Stopped

__all__ = ["OPEN_S", "opened", "put_files"]

log: Final = logging.getLogger(__name__)

OPEN_S: Final = 60.0
"""The time limit for opening a sandbox."""

USER_PACKAGES: Final = ".local"
"""The folder of the workspace in which interpreters look for packages (Python: site.USER_BASE)."""

MOST_OF_MEMORY: Final = 4
"""Files of more than this part of the memory limit are written before the program is started."""


async def opened(
    job: ResolvedJob,
    pool: Pool,
    path: str,
    outbound: Outbound,
    stop: Stop,
    held: contextlib.AsyncExitStack,
) -> Sandbox:
    """Open the sandbox of a job, and its proxy if it has one; `held` closes both.

    `path` is the jobs' PATH. Raises `Stopped`, and `SandboxFailure`.
    """
    shape = Shape(
        job.backend,
        job.limits,
        network=job.network,
        read_only=job.read_only,
        etc=job.etc,
        terminal=job.terminal is not None,
    )
    try:
        async with stop.unless_requested(OPEN_S):
            sandbox = await pool.lend(shape, _program(job, path))
            held.push_async_callback(sandbox.close)
            waited = "yes" if sandbox.waits else "no"
            log.debug("job_id=%s sandbox=%s waited=%s", job.job_id, sandbox.way, waited)
            if job.allow_hosts:
                proxy = Proxy(
                    await sandbox.listen(PROXY_PORT),
                    [HostRule.parse(entry) for entry in job.allow_hosts],
                    job_id=job.job_id,
                    outbound=outbound,
                )
                await held.enter_async_context(proxy)
    except TimeoutError:
        raise SandboxFailure(f"the sandbox did not start within {OPEN_S:.0f} s") from None
    except OSError as error:
        raise SandboxFailure(f"the host refuses something that it needs: {error}") from error
    return sandbox


def _program(job: ResolvedJob, path: str) -> Program | None:
    """Return what may be started before the job, or None.

    An interpreter that was has looked for packages already, and found none.
    """
    if job.terminal is not None:
        return None  # a program starts on its terminal
    if any(file.name.split("/", 1)[0] == USER_PACKAGES for file in job.files):
        return None
    first = job.steps[0]
    env = tuple(environment(job, path, home="").items())
    fork = None if job.fork is None else Fork(job.fork, job.language or "")
    return Program(first.argv, env, first.limits, _may_be_held(job), fork)


def _may_be_held(job: ResolvedJob) -> bool:
    """Return whether its program may be one that was started before."""
    # That one's memory is limited before the files come, and not only afterwards.
    size = sum(len(file.content) for file in job.files)
    return job.warm and size <= job.limits.memory_bytes // MOST_OF_MEMORY


async def put_files(job: ResolvedJob, sandbox: Sandbox, stop: Stop) -> None:
    """Write the files of a job, within its wall time limit.

    Raises `Stopped`, `FilesDoNotFit` and `SandboxFailure`.
    """
    try:
        async with stop.unless_requested(job.limits.wall_time_s):
            await sandbox.put_files(job.files, job.steps[0].limits)
    except TimeoutError:
        stop.request("wall_time")
        raise Stopped from None

"""Open a job's sandbox, write its files, and start its proxy; each within a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from streamer.engine.blobs import Blobs
from streamer.errors import EngineUnavailable, NotFound, SandboxFailure
from streamer.model.hosts import HostRule
from streamer.model.job import USER_PACKAGES, JobProject, ResolvedJob
from streamer.model.logfields import about
from streamer.sandbox.network.proxy import PROXY_PORT, Outbound, Proxy
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Fork, Program, Shape, StoredProject
from streamer.worker.program import environment
from streamer.worker.stop import Stop, Stopped

__all__ = ["AWAY_S", "OPEN_S", "Lend", "Lender", "opened", "opened_blob", "put_files", "shape_of"]

log: Final = logging.getLogger(__name__)

OPEN_S: Final = 60.0
"""The time limit for opening a sandbox."""

AWAY_S: Final = 30.0
AWAY_PAUSE_S: Final = 0.5
"""How long a job waits for its project while the engine is away, and how often it looks."""

MOST_OF_MEMORY: Final = 4
"""Files of more than this part of the memory limit are written before the program is started."""


Lend = Callable[[Shape, Program | None], Awaitable[Sandbox]]
"""`Pool.lend`, or that of a series."""


class Lender(Protocol):
    """A session, which lends its sandbox to one job after another."""

    def lent(self) -> AbstractAsyncContextManager[Sandbox]: ...


async def opened(
    job: ResolvedJob,
    lend: Lend,
    path: str,
    outbound: Outbound,
    stop: Stop,
    held: contextlib.AsyncExitStack,
    session: Lender | None = None,
) -> Sandbox:
    """Open the sandbox of a job, and its proxy if it has one; `held` closes both.

    `path` is the jobs' PATH. A job of a session gets that of `session`, once it has its turn.
    Raises `Stopped`, and `SandboxFailure`.
    """
    try:
        # The engine gives out the jobs of a session one by one: it waits for requests only.
        async with stop.unless_requested(OPEN_S):
            if session is None:
                sandbox = await lend(shape_of(job), _program(job, path))
                held.push_async_callback(sandbox.close)
            else:
                sandbox = await held.enter_async_context(session.lent())
            way = sandbox.way if session is None else "session"
            waited = "yes" if sandbox.waits else "no"
            log.debug(
                *("job_id=%s sandbox=%s waited=%s", job.job_id, way, waited),
                extra=about(job.job_id, job.tenant),
            )
            if job.allow_hosts:
                proxy = Proxy(
                    await sandbox.listen(PROXY_PORT),
                    [HostRule.parse(entry) for entry in job.allow_hosts],
                    job_id=job.job_id,
                    tenant=job.tenant,
                    outbound=outbound,
                )
                await held.enter_async_context(proxy)
    except TimeoutError:
        raise SandboxFailure(f"the sandbox did not start within {OPEN_S:.0f} s") from None
    except OSError as error:
        raise SandboxFailure(f"the host refuses something that it needs: {error}") from error
    return sandbox


def shape_of(job: ResolvedJob) -> Shape:
    return Shape(
        job.backend,
        job.limits,
        network=job.network,
        read_only=job.read_only,
        etc=job.etc,
        tmp_bytes=job.tmp_bytes,
        terminal=job.terminal is not None,
    )


def _program(job: ResolvedJob, path: str) -> Program | None:
    """Return what may be started before the job, or None.

    An interpreter that was has looked for packages already, and found none.
    """
    if job.terminal is not None:
        return None  # a program starts on its terminal
    if any(file.name.split("/", 1)[0] == USER_PACKAGES for file in job.files):
        return None
    if job.project is not None and job.project.has_packages:
        return None
    first = job.steps[0]
    env = tuple(environment(job, path, home="").items())
    fork = None if job.fork is None else Fork(job.fork, job.language or "")
    return Program(first.argv, env, first.limits, _may_be_held(job), fork)


def _may_be_held(job: ResolvedJob) -> bool:
    """Return whether its program may be one that was started before."""
    # That one's memory is limited before the files come, and not only afterwards.
    size = sum(len(file.content) for file in job.files)
    size += 0 if job.project is None else job.project.bytes
    return job.warm and size <= job.limits.memory_bytes // MOST_OF_MEMORY


async def put_files(
    job: ResolvedJob,
    sandbox: Sandbox,
    stop: Stop,
    blobs: Blobs,
    build: StoredProject | None = None,
) -> None:
    """Write the files of a job over a copy of its project, within its wall time limit.

    With a `build` of them that is written instead. Raises `Stopped`, `FilesDoNotFit` and
    `SandboxFailure`.
    """
    limits = job.steps[0].limits
    if job.session_id is not None:
        # Not interrupted, which has a time limit of its own: after half a frame the init would
        # understand no other one, and with its sandbox the session would end.
        await sandbox.put_files(job.files, limits)
        if stop.reason is not None:
            raise Stopped
        return
    try:
        async with stop.unless_requested(job.limits.wall_time_s):
            if build is not None:
                await sandbox.put_files((), limits, build)
                return
            async with _project(job, blobs) as project:
                await sandbox.put_files(job.files, limits, project)
    except TimeoutError:
        stop.request("wall_time")
        raise Stopped from None


@contextlib.asynccontextmanager
async def _project(job: ResolvedJob, blobs: Blobs) -> AsyncIterator[StoredProject | None]:
    if job.project is None:
        yield None
        return
    async with opened_blob(job.project, blobs, away_s=AWAY_S) as project:
        yield project


@contextlib.asynccontextmanager
async def opened_blob(
    project: JobProject, blobs: Blobs, *, away_s: float = 0.0
) -> AsyncIterator[StoredProject]:
    """Open what is stored in the form of a project. Raises `SandboxFailure`.

    While the engine cannot be reached it is tried again, for `away_s` seconds.
    """
    now = asyncio.get_running_loop().time
    ends = now() + away_s
    async with contextlib.AsyncExitStack() as held:
        fd = None
        while fd is None:
            try:
                fd = await held.enter_async_context(blobs.open(project.blob_id))
            except (NotFound, OSError) as error:
                if not isinstance(error, EngineUnavailable) or now() >= ends:
                    raise SandboxFailure(f"the project cannot be read: {error}") from error
                await asyncio.sleep(AWAY_PAUSE_S)
        yield StoredProject(fd, project.bytes, project.entries)

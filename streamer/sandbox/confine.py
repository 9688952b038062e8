"""Open what a job is run in: its user, folder, control group and sandbox, in this order.

Jobs and the trials of backends come here alike, so what is tried is what jobs get.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from streamer.model.job import Limits
from streamer.sandbox.cgroups import CgroupTree, JobCgroup
from streamer.sandbox.driver import Sandbox, open_sandbox
from streamer.sandbox.slots import UidSlots
from streamer.sandbox.workspace import StateFolder
from streamer.spi import Backend, Identity, SandboxJob

__all__ = ["Confined", "Means", "Shape", "confine"]


@dataclass(frozen=True, slots=True)
class Means:
    """What this process has to confine jobs with. Users only where it is root."""

    folder: StateFolder
    slots: UidSlots | None
    cgroups: CgroupTree | None
    strict_filter: bool = False
    """Whether programs get the filter of system calls of the preset ``strict``."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What shapes a sandbox before anything runs in it.

    `name` is random, and not the job's id: other accounts see the names of folders, groups and
    commands. `environment` makes a program's variables from the job's folder on the host.
    """

    name: str
    limits: Limits
    environment: Callable[[str], Mapping[str, str]]
    network: bool = False
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Confined:
    """An open sandbox, the job's user if it has one, and its control group if it has one."""

    sandbox: Sandbox
    identity: Identity | None
    cgroup: JobCgroup | None


@asynccontextmanager
async def confine(
    backend: Backend, means: Means, shape: Shape, on_oom: Callable[[], None]
) -> AsyncIterator[Confined]:
    """Open a sandbox, and leave nothing of it behind, however long that takes.

    While something of it resists its end, its user, folder and group stay out of use. So
    whoever has somebody waiting must bound the wait for the exit.
    """
    async with contextlib.AsyncExitStack() as stack:
        slot = None
        if means.slots is not None:
            slot = await stack.enter_async_context(means.slots.lend())
        identity = backend.run_as(slot)
        folder = means.folder
        workspace = await stack.enter_async_context(
            folder.workspace(shape.name, identity, on_host=backend.host_workspace)
        )
        cgroup = None
        if means.cgroups is not None:
            cgroup = await stack.enter_async_context(means.cgroups.job(shape.name, on_oom))
        describe = _describer(shape, identity, folder, workspace)
        sandbox = await stack.enter_async_context(
            open_sandbox(
                backend,
                folder.host,
                workspace,
                describe,
                cgroup,
                strict_filter=means.strict_filter,
            )
        )
        yield Confined(sandbox, identity, cgroup)


def _describer(
    shape: Shape, identity: Identity | None, folder: StateFolder, workspace: Path
) -> Callable[[tuple[str, ...]], SandboxJob]:
    def describe(argv: tuple[str, ...]) -> SandboxJob:
        return SandboxJob(
            name=shape.name,
            argv=argv,
            env=shape.environment(str(workspace)),
            limits=shape.limits,
            network=shape.network,
            shown=folder.shown(shape.read_only, shape.etc, network=shape.network),
            identity=identity,
            host=folder.host,
        )

    return describe

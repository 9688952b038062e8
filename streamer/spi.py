"""Everything that the author of a sandbox backend may import.

A backend says *how a program is confined*: it turns a job into the command that
starts the sandbox. Everything dangerous is done once, for all backends, elsewhere:
starting, feeding, limiting, killing, reaping, and telling the verdict.

**The init.** What a backend starts inside its sandbox is not the job's program but
our own small init (`SandboxJob.argv` is its command). The init holds the other end of
a control socket, which is *standard input* of whatever the backend starts: that
is all a wrapper must pass on. Through it the init gets the files, the program,
its limits and its three standard descriptors, and it reports the wait status and the
resource usage from the kernel. The job cannot reach that socket. A backend that
cannot run the init inside (another machine, another architecture) sets
`gated = False`, and `SandboxJob.argv` is then the program itself.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pluggy

from streamer.errors import BackendUnavailable
from streamer.model.job import Limits

__all__ = [
    "Backend",
    "BackendUnavailable",
    "Host",
    "Identity",
    "Isolation",
    "LaunchPlan",
    "Limits",
    "SandboxJob",
    "Shown",
    "hookimpl",
    "hookspec",
]

hookspec = pluggy.HookspecMarker("streamer")
hookimpl = pluggy.HookimplMarker("streamer")


class Isolation(enum.IntEnum):
    """How much a backend keeps a job away from the host; ``auto`` takes the highest.

    `NONE` runs only where the configuration names the backend.
    """

    NONE = 0
    DENY_LIST = 1
    """The root is the host's, and what no program needs is hidden in it (firejail)."""
    NAMESPACES = 2
    """The job sees only what it was given (bwrap)."""
    VIRTUAL_MACHINE = 3
    """The job has a kernel of its own."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The unprivileged user and group that a sandbox is started as, by number."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Host:
    """What a backend is told about the host once, when it is set up.

    `init` is the path of our init; `rootfs` a folder with an ``etc`` and a ``sys`` to be
    mounted read-only, which tell a job nothing of the host's accounts; `root` tells that
    the service runs as root, and then every job has an `Identity` of its own.

    `etc` are the paths in /etc of which `rootfs` has copies of the host's own. `folders` are the
    system's own folders (``/usr``), `links` the names beside them that are links on this host,
    each with what it points to (``/bin``, ``usr/bin``), and `others` all that lies in ``/``
    besides: programs of a distribution need none of it.
    """

    init: Path
    rootfs: Path
    etc: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    others: tuple[str, ...]
    root: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """A file or folder of the host that one job may read.

    `target` is where a sandbox with a root of its own must mount `source`: the same path, or
    where links that the sandbox shows lead. A source that is gone is left out, no error.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """What a backend is told of the sandbox that it plans.

    `name` is the sandbox's: random, for what needs one, such as a container. It is not the
    job's id, which lets who knows it read the job.

    `argv` is what must run inside. `env` is the environment of the program, the caller's
    choice, for a backend without the init: it hands that on by the wrapper's own means, and
    never starts a *wrapper* with it (think of LD_PRELOAD). It is empty where the init is, which
    gets it with each program. `limits` are the most that a program in the sandbox may have, which
    the init and the control group enforce: a backend makes file systems of these sizes. `identity`
    is None when the service is an ordinary user, and the sandbox then runs as that user. `shown` is
    what the job may read besides the system's own folders, in the order of mounting.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    limits: Limits
    network: bool
    shown: tuple[Shown, ...]
    identity: Identity | None
    host: Host


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The command that starts the sandbox: never a shell, never the service's environment.

    `workspace` is where the job's files are *inside* the sandbox. `start_as` is the
    user the command itself is started as when the service is root.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    workspace: str = "/work"
    start_as: Identity | None = None
    own_pid_namespace: bool = False
    """Start the command as the first process of a process-id namespace of its own,
    so that it and everything it started can be ended together."""
    private_mounts: tuple[str, ...] = ()
    """Where, besides the workspace, the job can write into a tmpfs of the sandbox's own: what
    is in it counts to the job's memory and number of files. One that is missing is no error."""

    litter: tuple[str, ...] = ()
    """Names of files that the wrapper itself puts into a workspace on the host: removed before
    the job's own files come."""

    def __post_init__(self) -> None:
        """Check the slip that no later message would name: a text is a sequence too."""
        argv: object = self.argv
        if isinstance(argv, str) or not all(
            issubclass(kind, str) for kind in set(map(type, self.argv))
        ):
            raise TypeError(
                "LaunchPlan.argv is a tuple of arguments, as in ('/usr/bin/nice', *job.argv), "
                f"not {self.argv!r:.100}"
            )


class Backend(ABC):
    """One way to confine a program. Derive a frozen dataclass; its fields are its options.

    They are filled from ``[sandbox.NAME]`` of the configuration and checked against
    their types, so an option is declared, documented and validated in one place.
    """

    name: ClassVar[str]
    isolation: ClassVar[Isolation]
    gated: ClassVar[bool] = True
    """Whether `SandboxJob.argv` is our init (see the module) or the program itself."""
    host_workspace: ClassVar[bool] = True
    """Whether the job's files lie in a folder of the host that we make and remove;
    else the sandbox has a private one of its own at `LaunchPlan.workspace`."""
    seccomp: ClassVar[bool] = False
    """Whether the init puts our whole filter of system calls (`streamer.sandbox.seccomp`) on each
    program, besides any that the backend has itself; else only the part that keeps the kernel's
    keys out of reach. Not for a backend without the init."""

    @abstractmethod
    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        """Return the command for one job. Pure: no I/O, no clock, no randomness.

        `workspace` is the job's folder on the host; it does not exist for a backend
        without `host_workspace`.
        """

    def run_as(self, slot: Identity | None) -> Identity | None:
        """Return the user of a job's sandbox: the one lent to the job, or one of its own.

        `slot` is None when the service is an ordinary user; nothing else is possible then.
        """
        return slot

    async def probe(self, host: Host) -> None:
        """Check what the backend needs, before a real program is run through `plan`.

        Raises `BackendUnavailable(reason, remedy)`.
        """

    @asynccontextmanager
    async def session(self, job: SandboxJob, workspace: Path) -> AsyncIterator[LaunchPlan]:
        """Hold what one job needs besides its process. The default holds nothing."""
        yield self.plan(job, workspace)

    def explain(self, wrapper_exit: int, wrapper_stderr: str) -> str | None:
        """Say, for the operator, why the sandbox did not come up, or None.

        Called only when the init never answered; the job has then not run.
        """
        return None

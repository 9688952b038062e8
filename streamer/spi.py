"""Everything that the author of a sandbox backend may import.

A backend confines programs: it turns a job into the command that starts the sandbox. The
dangerous parts are written once, for all backends: starting, input, limits, killing, reaping, and
the verdict.

**The init.** A backend does not start the job's program in its sandbox but our own small init
(`SandboxJob.argv` is its command). The init is controlled over a socket, which is the *standard
input* of the command that the backend starts: this is all that a wrapper must pass on. Over it
the init gets the files, the program, its limits and its three standard descriptors, and it
reports the wait status and the resource usage from the kernel. The job cannot reach that socket.
A backend that cannot run the init inside (another machine, another architecture) sets
`gated = False`; `SandboxJob.argv` is then the program itself.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

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
    "TemplatePlan",
    "hookimpl",
    "hookspec",
]

hookspec = pluggy.HookspecMarker("streamer")
hookimpl = pluggy.HookimplMarker("streamer")


class Isolation(enum.IntEnum):
    """How far a backend isolates a job from the host; ``auto`` takes the highest.

    A backend with `NONE` is used only if the configuration names it.
    """

    NONE = 0
    DENY_LIST = 1
    """The root is that of the host; what programs do not need is hidden (firejail)."""
    NAMESPACES = 2
    """The job sees only what is mounted for it (bwrap)."""
    VIRTUAL_MACHINE = 3
    """The job has its own kernel."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids of the unprivileged user and group that a sandbox is started as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Host:
    """Facts about the host, for all sandboxes.

    `init` is the path of our init; `rootfs` a folder with an ``etc`` and a ``sys`` to be mounted
    read-only, which reveal nothing of the host's accounts; with `root` the service runs as root,
    and every job has its own `Identity`.

    `etc` are the paths in /etc that `rootfs` has copies of. `folders` are the system's folders
    (``/usr``), `links` the names beside them that are symbolic links on this host, with their
    targets (``/bin``, ``usr/bin``), and `others` everything else in ``/``, which programs of a
    distribution do not need.
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

    `target` is where a sandbox with its own root must mount `source`: the same path, with the
    symbolic links in the sandbox resolved. Ignore a source that no longer exists.
    """

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class SandboxJob:
    """The sandbox that a backend has to plan.

    `name` is random, for objects that need a name, such as a container. It is not the job's id,
    which gives access to the job.

    `argv` must run inside. `env` is the program's environment for a backend without the init: the
    caller chose it, so pass it on by an option of the wrapper and never start the *wrapper* with it
    (LD_PRELOAD). With the init it is empty, since the init gets it with each program. `limits` are
    the most that a program in the sandbox may use; the init and the control group enforce them, a
    backend creates file systems of these sizes. `identity` is None if the service is an ordinary
    user; the sandbox then runs as that user. `shown` is what the job may read besides the system's
    folders, in the order of mounting. With `terminal` the init opens /dev/ptmx of the sandbox once,
    when it starts; the programs after it must not be able to, since the host has a limited number.
    `tmp_bytes` is the size of /tmp that its language needs, or None: see `Backend.size_of_tmp`.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    limits: Limits
    network: bool
    shown: tuple[Shown, ...]
    identity: Identity | None
    host: Host
    terminal: bool = False
    tmp_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """The command that starts the sandbox: never a shell, never the service's environment.

    `workspace` is the folder of the job's files *inside* the sandbox. `start_as` is the user that
    the command itself is started as if the service is root.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    workspace: str = "/work"
    start_as: Identity | None = None
    own_pid_namespace: bool = False
    """Start the command as the first process of a new PID namespace, so that it and everything
    it started can be killed together."""
    read_only: tuple[str, ...] = ()
    """Folders of the host that are made read-only for the command; with `own_pid_namespace`."""
    private_mounts: tuple[str, ...] = ()
    """The tmpfs mounts of the sandbox, besides the workspace, that the job can write to: their
    content counts as the job's memory and files. A missing one is ignored."""

    litter: tuple[str, ...] = ()
    """Names of files that the wrapper itself puts into a workspace on the host: they are removed
    before the job's files are written."""

    def __post_init__(self) -> None:
        """Check for a common mistake without a clear message later: text is a sequence too."""
        argv: object = self.argv
        if isinstance(argv, str) or not all(
            issubclass(kind, str) for kind in set(map(type, self.argv))
        ):
            raise TypeError(
                "LaunchPlan.argv is a tuple of arguments, as in ('/usr/bin/nice', *job.argv), "
                f"not {self.argv!r:.100}"
            )


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """A sandbox that stays, inside which our init makes a sandbox for each job.

    `launch` starts it. Its command must run `SandboxJob.argv` without any capability, in a user
    namespace of its own and as the first process of a PID namespace, with a read-only root: the
    init checks this. It must die with the service, and show a /proc without anything mounted in
    it. Jobs share a template if their `launch` is equal, so a limit must not be in it.

    Each job gets its own user, PID, mount, IPC, UTS, network and control group namespaces, a /proc,
    a /dev/pts, no capability, no further user namespace, and `mounts`: private tmpfs with their
    sizes in bytes, one at `LaunchPlan.workspace`, those in `LaunchPlan.private_mounts` and any
    others that the job can write to. `masks` are files that the job must not read.
    """

    launch: LaunchPlan
    mounts: tuple[tuple[str, int], ...]
    masks: tuple[str, ...] = ()


class Backend(ABC):
    """One way to confine a program. Derive a frozen dataclass; its fields are its options.

    They are filled from ``[sandbox.NAME]`` of the configuration and checked against their types.
    """

    name: ClassVar[str]
    isolation: ClassVar[Isolation]
    gated: ClassVar[bool] = True
    """Whether `SandboxJob.argv` is our init (see above) or the program itself."""
    host_workspace: ClassVar[bool] = True
    """Whether the job's files lie in a folder of the host, which the service creates and removes;
    otherwise the sandbox has its own folder at `LaunchPlan.workspace`."""
    seccomp: ClassVar[bool] = False
    """Whether the init installs our whole system call filter (`streamer.sandbox.seccomp`) for each
    program, in addition to any filter of the backend; otherwise only the part that protects jobs
    from each other. Not for a backend without the init."""

    ahead: ClassVar[Literal["program", "sandbox", "nothing"]] = "program"
    """What may be started before its job, and wait: the program in its sandbox, which the init
    traces until then, or only the sandbox."""

    def terminals(self) -> bool:
        """Whether its sandboxes can have a terminal (`SandboxJob.terminal`)."""
        return False

    def size_of_tmp(self) -> int | None:
        """Return the size in bytes of /tmp in its sandboxes; None if it gives /tmp no size.

        A backend that returns one makes /tmp of `SandboxJob.tmp_bytes` where a job has that.
        """
        return None

    @abstractmethod
    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        """Return the command for one job. Pure: no I/O, no clock, no randomness.

        `workspace` is the job's folder on the host; without `host_workspace` it does not exist.
        """

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        """Return how to start a template for jobs like this one; None if it needs its own sandbox.

        Pure, as `plan`; `job.argv` is the command for a template. Only for a backend without
        `host_workspace`. `session` is not called for a job whose sandbox a template makes. If a
        template does not work on this host, every job has its own sandbox, from `plan`. A derived
        class that overrides `plan` or `session` must override this too, or has no template.
        """
        return None

    def run_as(self, slot: Identity | None) -> Identity | None:
        """Return the user of a job's sandbox: the one lent to the job, or another.

        `slot` is None if the service is an ordinary user; the sandbox then runs as that user.
        """
        return slot

    async def probe(self, host: Host) -> None:
        """Check the backend's requirements, before a test program is run through `plan`.

        Raises `BackendUnavailable(reason, remedy)`.
        """

    @asynccontextmanager
    async def session(self, job: SandboxJob, workspace: Path) -> AsyncIterator[LaunchPlan]:
        """Provide what one job needs besides its process, for the lifetime of its sandbox."""
        yield self.plan(job, workspace)

    def explain(self, wrapper_exit: int, wrapper_stderr: str) -> str | None:
        """Return, for the operator, why the sandbox did not start, or None if unknown.

        Called only if the init never answered; the job has then not run.
        """
        return None

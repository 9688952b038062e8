"""Values about a sandbox: its shape, a run in it, the end of a run, and its usage."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.sandbox.stdio import Stdio

__all__ = [
    "KILLED_FOR_MEMORY",
    "Cause",
    "FilesDoNotFit",
    "Fork",
    "LargeFile",
    "PathRefused",
    "Program",
    "Run",
    "RunEnd",
    "Shape",
    "StoredProject",
    "Use",
]

Cause = Literal["cpu_time", "memory", "disk", "killed", "lost"]
"""What ended a run, if not the program itself: a limit, or a kill by us."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything about a sandbox that must be known before it starts. Hashable: a pool's key.

    `limits` are the most that a run in it may use: a backend creates file systems of these sizes.
    `read_only` are paths of the host, and `etc` patterns of names in /etc, that are shown besides
    those that every sandbox shows. `tmp_bytes` is the size of its /tmp, where the backend makes
    one; without it the backend's own. With `terminal` its programs can have one. The user is not
    part of it: as root every sandbox has its own.
    """

    backend: str
    limits: Limits
    network: bool = False
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
    tmp_bytes: int | None = None
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class StoredProject:
    """A descriptor of a stored project (`streamer.model.project`), and how much it is to unpack."""

    fd: int
    bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class LargeFile:
    """A file that is not held in memory: `pieces` yields its `size` bytes, part after part."""

    name: str
    mode: int
    size: int
    pieces: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Run:
    """One program for an open sandbox; without `cwd` it starts in the workspace."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    limits: Limits
    stdio: Stdio
    cwd: str = ""

    def same_program(self, other: Run) -> bool:
        """Return whether a program could not tell which of the two runs it is in."""
        return (
            self.argv == other.argv
            # Their order is that of the program's variables.
            and [*self.env.items()] == [*other.env.items()]
            and self.limits == other.limits
            and self.cwd == other.cwd
        )


@dataclass(frozen=True, slots=True)
class Fork:
    """Whose programs may be forked from one interpreter that was started once: see `init/forked`.

    They have the addresses of that interpreter and the seed of its hashes in common.
    """

    tenant: str
    language: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program that may be started before its job, and all that it can see of how it is run.

    Hashable: a key. `env` are its variables in order; HOME is empty and becomes the workspace. With
    `holds` it may be held (`Sandbox.hold`); with `fork` it may be forked from an interpreter that
    runs already, where that works.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    limits: Limits
    holds: bool = True
    fork: Fork | None = None

    def run(self, home: str, stdio: Stdio) -> Run:
        return Run(self.argv, self.variables(home), self.limits, stdio)

    def variables(self, home: str) -> dict[str, str]:
        env = dict(self.env)
        if env.get("HOME") == "":
            env["HOME"] = home
        return env

    def is_run_by(self, run: Run, home: str) -> bool:
        return run.same_program(self.run(home, run.stdio))


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended; it exists only when everything the run started is dead.

    `status` is the raw wait status (wait(2)) of the program. `cause` is None if it ended by
    itself. Times in microseconds, sizes in bytes; None if unknown.
    """

    status: int
    cause: Cause | None
    cpu_time_us: int | None
    peak_memory_bytes: int | None
    wall_us: int


KILLED_FOR_MEMORY: Final = RunEnd(signal.SIGKILL, "memory", None, None, 0)
"""The kernel killed the init too, or the sandbox exceeded the limit before the run."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a sandbox has used so far, and uses now; None if unknown.

    `processes` are those of its programs, with their threads.
    """

    cpu_time_us: int | None
    memory_bytes: int | None
    disk_bytes: int | None
    processes: int | None


class FilesDoNotFit(Exception):
    """The files for a sandbox exceed its disk limit."""


class PathRefused(SandboxFailure):
    """What a program has left in the workspace is in the way of a file."""

"""Define a job as plain frozen values.

A caller asks with a `JobSpec`. The service resolves it against the configuration into a
`ResolvedJob`, the only form that an engine stores and a worker runs.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from streamer.model.webhook import Webhook

__all__ = [
    "LEAST",
    "MAX_CASES",
    "MAX_RETRIES",
    "MOST",
    "PRIORITIES",
    "USER_PACKAGES",
    "Case",
    "JobCase",
    "JobFacts",
    "JobProject",
    "JobSpec",
    "Lane",
    "Limits",
    "Phase",
    "ResolvedJob",
    "SourceFile",
    "Step",
    "TerminalSize",
    "most_inodes",
]

MIB = 1024 * 1024


class Phase(enum.StrEnum):
    """Which of the job's programs is running."""

    COMPILE = "compile"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a job may use. Times in seconds, sizes in bytes.

    `wall_time_s` and `cpu_time_s` count from the start of each phase. CPU time and memory are
    those of the whole process tree. `processes` counts processes and threads of this job only,
    `file_bytes` limits one file, `disk_bytes` everything it writes, `output_bytes` standard
    output and standard error together. `stack_bytes` is the stack of each process's first
    thread; a program may raise it, and it counts as memory.
    """

    wall_time_s: float = 60.0
    cpu_time_s: float = 60.0
    memory_bytes: int = 256 * MIB
    processes: int = 64
    open_files: int = 256
    file_bytes: int = 64 * MIB
    disk_bytes: int = 128 * MIB
    output_bytes: int = 16 * MIB
    stack_bytes: int = 8 * MIB


LEAST: Final = Limits(
    wall_time_s=0.1,
    cpu_time_s=0.1,
    memory_bytes=4 * 1024 * 1024,
    processes=1,
    open_files=8,
    file_bytes=1,
    disk_bytes=4096,
    output_bytes=1,
    stack_bytes=64 * 1024,
)
"""With less than this no program can run."""

MOST: Final = Limits(
    wall_time_s=1e9,
    cpu_time_s=1e9,
    memory_bytes=2**50,
    processes=4_000_000,
    open_files=2**30,
    file_bytes=2**50,
    disk_bytes=2**50,
    output_bytes=2**50,
    stack_bytes=2**50,
)
"""Above this the kernel or a wrapper treats the number as "no limit"."""


BYTES_PER_INODE: Final = 4096
MIN_INODES: Final = 10_000
MAX_INODES: Final = 2**32 - 1
"""No file system has more, and it fits into a frame for the init."""


def most_inodes(limits: Limits) -> int:
    """Return how many files and folders a job may have: one for each page of its disk limit."""
    return min(max(MIN_INODES, limits.disk_bytes // BYTES_PER_INODE), MAX_INODES)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file, put into the workspace before the first phase.

    `name` is a relative path, separated by ``/``, that stays inside the workspace; `mode` has
    permission bits only.
    """

    name: str
    content: bytes
    mode: int = 0o644


USER_PACKAGES: Final = ".local"
"""The folder of the workspace in which interpreters look for packages (Python: site.USER_BASE)."""


@dataclass(frozen=True, slots=True)
class JobProject:
    """A stored project, of which a job gets a copy beneath its own files.

    `entries` are its files and folders, `bytes` those of its files. `has_packages` tells whether a
    file of it is in `USER_PACKAGES`.
    """

    blob_id: str
    bytes: int
    entries: int
    has_packages: bool = False


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """The size of a job's pseudo-terminal, in characters."""

    cols: int
    rows: int


MAX_CASES: Final = 1000
"""The most that the configuration may allow: the last event of a job has the verdict of each."""

MAX_RETRIES: Final = 3
"""How often a job may be run again."""


@dataclass(frozen=True, slots=True)
class Case:
    """One of several runs of a job's program, with input of its own.

    `stdin` and `args` take the place of the job's if they are given, `env` is added to the job's,
    and `limits` lower the job's. `name` is told with the verdict.
    """

    stdin: bytes | None = None
    args: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, float | str] = field(default_factory=dict)
    name: str | None = None


PRIORITIES: Final = range(-10, 11)
"""Higher ones first, among the waiting jobs of one tenant."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job as the caller asks for it; fields left out take the value of the configuration.

    Exactly one of `language` and `command` is given. `limits` maps names of `Limits` fields to
    values up to ``limits.max``; a size may be text ("256MiB"). With `cases` the program runs once
    for each of them, and with `stop_on_failure` not after one that does not exit with 0. With a
    higher `priority` (`PRIORITIES`) it comes before the tenant's other waiting jobs. `retry`
    is how often it is run again, from the start, when its worker is lost; `MAX_RETRIES` at most.
    """

    language: str | None = None
    command: tuple[str, ...] = ()
    code: str | None = None
    files: tuple[SourceFile, ...] = ()
    project_id: str | None = None
    session_id: str | None = None
    entry: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    interactive: bool = False
    terminal: TerminalSize | None = None
    limits: Mapping[str, float | str] = field(default_factory=dict)
    network: bool = False
    sandbox: str | None = None
    environment: str | None = None
    artifacts: tuple[str, ...] = ()
    output_encoding: Literal["utf-8", "base64"] = "utf-8"
    metadata: Mapping[str, str] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    stop_on_failure: bool = False
    priority: int = 0
    retry: int = 0
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One program that the sandbox runs for the job: `argv` under `limits`.

    `stdin` is the compiler's input; the job's own input goes to the program it made.
    """

    phase: Phase
    argv: tuple[str, ...]
    limits: Limits
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class JobCase:
    """A case for which everything is decided.

    `step` runs the program, with `env` besides the variables of the job; without `stdin` that of
    the job is its input.
    """

    step: Step
    env: Mapping[str, str]
    stdin: bytes | None
    name: str | None


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """A job that was accepted: everything is decided, nothing is looked up later.

    `steps` run one after another in one sandbox, until one does not exit with 0. With `cases` the
    last of them does not run: each case's own step does, in a sandbox of its own. `env` is the
    whole environment of the program; with `terminal` it runs on one. `read_only` are host paths
    that the runtime needs besides the system's, `etc` patterns of names in /etc, `tmp_bytes` the
    size of /tmp if the runtime has one. With `network` the
    job shares the host's network; otherwise a proxy lets it reach the entries of `allow_hosts`.
    With `warm` its program may be one that was started before: nothing but its limits and its files
    is the caller's own. `fork` is the tenant from whose interpreter it may be forked. With
    `output_terminal` its standard output is a pseudo-terminal, which its caller does not notice.
    """

    job_id: str
    language: str | None
    backend: str
    steps: tuple[Step, ...]
    files: tuple[SourceFile, ...] = ()
    project: JobProject | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    interactive: bool = False
    terminal: TerminalSize | None = None
    network: bool = False
    allow_hosts: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
    tmp_bytes: int | None = None
    output_encoding: Literal["utf-8", "base64"] = "utf-8"
    metadata: Mapping[str, str] = field(default_factory=dict)
    preset: str = ""
    """The preset of the configuration."""
    environment: str | None = None
    """The name of the operator's packages that it runs with: its steps and paths have them."""
    warm: bool = False
    fork: str | None = None
    output_terminal: bool = False
    tenant: str = ""
    """Whose disk space it uses."""
    cases: tuple[JobCase, ...] = ()
    stop_on_failure: bool = False
    retry: int = 0
    """How often it may be run again when its worker is lost."""
    artifacts: tuple[str, ...] = ()
    """Patterns of the files that are kept when it ends (`streamer.model.globs`)."""
    files_url: str = ""
    """Where these can be downloaded: their address begins with it, and ends with their name."""
    session_id: str | None = None
    """The session in whose sandbox it runs; its network and mounts are those of that."""
    priority: int = 0
    webhook: Webhook | None = None
    """To whom its end is told."""
    traceparent: str = ""
    """That of its acceptance (`streamer.model.tracecontext`)."""

    @property
    def limits(self) -> Limits:
        """The limits of the job's own program: the last step."""
        return self.steps[-1].limits

    @property
    def facts(self) -> JobFacts:
        return JobFacts(
            self.job_id,
            self.language,
            self.backend,
            self.interactive,
            self.metadata,
            self.preset,
            terminal=self.terminal,
            environment=self.environment,
            session_id=self.session_id,
            priority=self.priority,
            retry=self.retry,
            traceparent=self.traceparent,
            limits=self.limits,
        )


class Lane(NamedTuple):
    """What decides which workers can run a job."""

    backend: str
    language: str | None
    environment: str | None
    session_id: str | None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The facts about an accepted job for callers: nothing large, and no files or input.

    `policy` is the SHA-256 of what confines it (`streamer.worker.policy`); it is None until a
    worker runs the job.
    """

    job_id: str
    language: str | None
    backend: str
    interactive: bool
    metadata: Mapping[str, str]
    preset: str = ""
    policy: str | None = None
    terminal: TerminalSize | None = None
    environment: str | None = None
    session_id: str | None = None
    priority: int = 0
    retry: int = 0
    traceparent: str = ""
    limits: Limits | None = None
    """Those of its program; None in records of an earlier version."""

    @property
    def lane(self) -> Lane:
        return Lane(self.backend, self.language, self.environment, self.session_id)

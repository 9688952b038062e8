"""The JSON documents that a service answers with, for type checkers.

At run time they are plain dictionaries, with all that the service has sent. `docs/http.md` and the
OpenAPI document describe each field; times are ISO 8601 in UTC, and ``None`` is JSON's null.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

__all__ = [
    "FileDocument",
    "GrantDocument",
    "JobDocument",
    "ProjectDocument",
    "QueueDocument",
    "ReaderDocument",
    "ResultDocument",
    "RuntimeDocument",
    "SandboxDocument",
    "SessionDocument",
    "SessionFileDocument",
]


class CaseDocument(TypedDict):
    """The verdict of one case in the result of a job, with the output of the case."""

    index: int
    reason: str
    exitCode: int | None
    signal: str | None
    durationMs: int
    cpuTimeMs: int | None
    peakMemoryBytes: int | None
    timedOut: bool
    oomKilled: bool
    outputBytes: int
    outputTruncated: bool
    t: int
    name: NotRequired[str | None]
    stdout: NotRequired[str]
    stderr: NotRequired[str]


class ArtifactFailureDocument(TypedDict):
    """Why a file that a job should have left was not kept."""

    reason: str
    name: NotRequired[str | None]
    glob: NotRequired[str | None]


class ResultDocument(TypedDict, total=False):
    """How a job ended.

    With `reason` its program ran, and all fields of the event ``complete`` are there; with `code`
    it could not be run, and there is a `message`. In a list of jobs it is without the output.
    """

    reason: str
    exitCode: int | None
    signal: str | None
    durationMs: int
    cpuTimeMs: int | None
    peakMemoryBytes: int | None
    timedOut: bool
    oomKilled: bool
    outputBytes: int
    outputTruncated: bool
    sandbox: str
    phase: str
    cached: bool
    cases: list[CaseDocument] | None
    artifactsFailed: list[ArtifactFailureDocument]
    attempts: int
    code: str
    message: str
    stdout: str
    stderr: str
    stdoutTruncated: bool
    stderrTruncated: bool


class JobLinksDocument(TypedDict):
    """The addresses of what can be asked of a job."""

    job: str
    stream: str
    stdin: str
    signal: str
    cast: str
    output: str
    cancel: str
    files: str


class PolicyDocument(TypedDict):
    """What confines a job; `sha256` is None until a worker has prepared it."""

    backend: str
    preset: str
    sha256: str | None


class WebhookDocument(TypedDict):
    """What has become of a job's webhook."""

    state: str
    attempts: int
    lastError: NotRequired[str]
    nextAt: NotRequired[str]


class TerminalDocument(TypedDict):
    """The size with which a terminal began, in characters."""

    cols: int
    rows: int


class JobDocument(TypedDict):
    """A job. `status` is ``complete`` or ``error`` once it is over; then it has a `result`.

    Until then `stdout` and `stderr` have its output so far. In a list it is without output.
    """

    jobId: str
    status: str
    language: str | None
    environment: str | None
    sandbox: str
    policy: PolicyDocument
    metadata: dict[str, str]
    priority: int
    createdAt: str
    startedAt: str | None
    finishedAt: str | None
    expiresAt: str | None
    interactive: bool
    terminal: TerminalDocument | None
    limits: dict[str, float] | None
    links: JobLinksDocument
    sessionId: NotRequired[str]
    position: NotRequired[int]
    estimatedWaitS: NotRequired[float]
    result: NotRequired[ResultDocument]
    stdout: NotRequired[str]
    stderr: NotRequired[str]
    stdoutTruncated: NotRequired[bool]
    stderrTruncated: NotRequired[bool]
    webhook: NotRequired[WebhookDocument]


class FileDocument(TypedDict):
    """A file that a job has left; `bytes` is its size, `sha256` in hexadecimal digits."""

    name: str
    bytes: int
    sha256: str
    url: str


class GrantLinksDocument(TypedDict):
    """The addresses that a grant opens; `files` only if it opens those."""

    job: str
    stream: str
    output: str
    cast: str
    files: NotRequired[str]


class GrantDocument(TypedDict):
    """A grant: whoever has it may read one job until `expiresAt`."""

    grant: str
    expiresAt: str
    links: GrantLinksDocument


class ReaderDocument(TypedDict):
    """A client that follows a job; `lag` is how many events have not been sent to it yet."""

    id: int
    peer: str | None
    since: str
    position: int
    lag: int


class ProjectFileDocument(TypedDict):
    """A file of a project; `bytes` is its size."""

    name: str
    bytes: int


class ProjectDocument(TypedDict):
    """A project; `projectId` is what jobs name, until `expiresAt`."""

    projectId: str
    files: list[ProjectFileDocument]
    expiresAt: str


class SessionLinksDocument(TypedDict):
    """The addresses of what can be asked of a session."""

    session: str
    files: str


class SessionDocument(TypedDict):
    """A session; `status` is ``opening``, ``idle`` or ``running``."""

    sessionId: str
    status: str
    sandbox: str
    environment: str | None
    languages: list[str]
    keepProcesses: bool
    network: bool
    limits: dict[str, float]
    idleS: float
    metadata: dict[str, str]
    createdAt: str
    expiresAt: str
    links: SessionLinksDocument


class SessionFileDocument(TypedDict):
    """Something in a workspace; `kind` is ``file``, ``folder``, ``link`` or ``other``."""

    name: str
    kind: str
    bytes: int


class WaitingJobDocument(TypedDict):
    """A job of the caller that waits; `position` counts from 1."""

    jobId: str
    position: int
    estimatedWaitS: float


class OwnQueueDocument(TypedDict):
    """What of the queue is the caller's; `maxRunning` is None without such a limit."""

    running: int
    waiting: int
    maxRunning: int | None
    jobs: list[WaitingJobDocument]


class QueueDocument(TypedDict):
    """How busy the service is, in numbers of jobs; `estimatedWaitS` is that of a new job."""

    running: int
    waiting: int
    capacity: int
    maxWaiting: int
    estimatedWaitS: float
    own: OwnQueueDocument


class EnvironmentDocument(TypedDict):
    """Packages for a language: their versions by their names."""

    name: str
    available: bool
    reason: str | None
    packages: dict[str, str]


class RuntimeDocument(TypedDict):
    """A language; `reason` is None, or why it is not available.

    `limits` are those of a job that asks for no others.
    """

    name: str
    title: str
    version: str | None
    aliases: list[str]
    entry: str
    compiled: bool
    available: bool
    reason: str | None
    environments: list[EnvironmentDocument]
    limits: dict[str, float]


class SandboxDocument(TypedDict):
    """A sandbox; `enforces` tells by which means each limit is enforced."""

    name: str
    available: bool
    reason: str | None
    isolation: str
    default: bool
    selectable: bool
    enforces: dict[str, str]
    held: int
    notHeld: str | None
    terminals: bool
    forks: list[str]
    notForked: dict[str, str]


class JobPage(TypedDict):
    """A page of jobs, and the cursor of the next one."""

    jobs: list[JobDocument]
    nextCursor: str | None


class JobId(TypedDict):
    """The answer to a submission, of which only the id is needed."""

    jobId: str


class FileList(TypedDict):
    """The files of a job."""

    files: list[FileDocument]


class SessionFileList(TypedDict):
    """What is in a workspace."""

    files: list[SessionFileDocument]


class ReaderList(TypedDict):
    """Who follows a job."""

    sessions: list[ReaderDocument]


class SessionDocuments(TypedDict):
    """The sessions of the caller."""

    sessions: list[SessionDocument]


class RuntimeList(TypedDict):
    """The languages, and the most that a job may ask for."""

    runtimes: list[RuntimeDocument]
    maxLimits: dict[str, float]


class SandboxList(TypedDict):
    """The sandboxes."""

    sandboxes: list[SandboxDocument]


Nothing = dict[str, Any]
"""An answer of which nothing is needed."""

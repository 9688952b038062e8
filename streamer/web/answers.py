"""The JSON documents that the service answers with: one type for each.

Handlers build them. The OpenAPI document is generated from them, and its descriptions are the
docstrings of the types and of their fields. A field that may be `UNSET` is then left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from streamer.engine.interface import JobState
from streamer.model.events import CaseEnd, Complete, Error

__all__ = [
    "Accepted",
    "Answer",
    "Cancelled",
    "CaseResult",
    "Completed",
    "Environment",
    "Failed",
    "Files",
    "Grant",
    "GrantLinks",
    "Health",
    "InputTaken",
    "Job",
    "JobFile",
    "JobLinks",
    "JobList",
    "ListedJob",
    "Policy",
    "Problem",
    "Project",
    "ProjectFile",
    "Queue",
    "Reader",
    "Readers",
    "Readiness",
    "ReadinessChecks",
    "Resized",
    "Runtime",
    "Runtimes",
    "Sandbox",
    "Sandboxes",
    "SignalSent",
    "TerminalSize",
    "WebhookState",
]


def either(*types: type[msgspec.Struct]) -> msgspec.Meta:
    """Describe a field of one of these types, since a schema of msgspec needs tags in a union."""
    refs = [{"$ref": f"#/components/schemas/{one.__name__}"} for one in types]
    return msgspec.Meta(extra={"types": types}, extra_json_schema={"anyOf": refs})


class Answer(msgspec.Struct, rename="camel"):
    """The base of all answers."""


class JobLinks(Answer):
    """The addresses of what can be asked of a job, with the prefix of the service."""

    job: str
    """The job's document."""
    stream: str
    """Its events."""
    stdin: str
    """Where its input is sent to."""
    signal: str
    """Where signals for it are sent to."""
    cast: str
    """Its recording for asciinema."""
    output: str
    """Its standard output; with ``stderr`` at the end its standard error."""
    cancel: str
    """Where DELETE cancels it."""
    files: str
    """The files that it has left."""


class Accepted(Answer):
    """A job that was accepted."""

    job_id: str
    """The id of the job, which all other routes take."""
    status: JobState
    """``queued``, unless the request repeats an earlier one."""
    links: JobLinks


class GrantLinks(Answer, omit_defaults=True):
    """The addresses that a grant opens, with the grant in each."""

    job: str
    """The job's document."""
    stream: str
    """Its events."""
    output: str
    """Its standard output; with ``stderr`` in place of ``stdout`` its standard error."""
    cast: str
    """Its recording for asciinema."""
    files: str | UnsetType = UNSET
    """The files that it has left, if the grant opens them."""


class Grant(Answer):
    """A grant: whoever has it may read one job until it expires."""

    grant: str
    """What opens the job, as ``?grant=``."""
    expires_at: str
    """When it opens nothing any more."""
    links: GrantLinks


class Policy(Answer):
    """What confines a job."""

    backend: str
    """The backend of its sandbox."""
    preset: str
    """The preset of the configuration."""
    sha256: str | None
    """The digest of all that confines it; null until a worker has prepared the job."""


class CaseResult(CaseEnd, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The data of an event ``case``, and the output of the case."""

    stdout: str
    """What it wrote to standard output; the texts of the job and of its cases are cut together."""
    stderr: str
    """What it wrote to standard error."""


class Completed(Complete, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The data of the event ``complete``, and the output."""

    stdout: str
    """What the program wrote to standard output, at most ``streams.result_text_bytes`` of it."""
    stderr: str
    """What it wrote to standard error, as much."""
    stdout_truncated: bool
    """Whether a part of ``stdout`` is missing."""
    stderr_truncated: bool
    """Whether a part of ``stderr`` is missing."""
    cases: tuple[CaseResult, ...] | None = None
    """The verdicts of the cases that ran, in their order, with the output of each; only of a job
    with cases."""


class Failed(Error, frozen=True, rename="camel"):
    """The data of the event ``error``, and the output."""

    stdout: str
    """What the program wrote to standard output, at most ``streams.result_text_bytes`` of it."""
    stderr: str
    """What it wrote to standard error, as much."""
    stdout_truncated: bool
    """Whether a part of ``stdout`` is missing."""
    stderr_truncated: bool
    """Whether a part of ``stderr`` is missing."""


class WebhookState(Answer):
    """What has become of a job's webhook."""

    state: Literal["waiting", "pending", "delivered", "failed", "unwanted"]
    """``waiting`` for the job's end, ``pending`` until it is told, ``unwanted`` if the job ended
    with an event that was not asked for."""
    attempts: int
    """How often it was tried."""
    last_error: str | UnsetType = UNSET
    """Why the last attempt failed, if it did."""
    next_at: str | UnsetType = UNSET
    """When the next one is made, if there is one."""


class TerminalSize(Answer):
    """The size of a terminal, in characters."""

    cols: int
    """Its columns."""
    rows: int
    """Its rows."""


class ListedJob(Answer):
    """A job in a list: without its output."""

    job_id: str
    """The id of the job."""
    status: JobState
    """The last two are final."""
    language: str | None
    """The name of its language; null for a command."""
    environment: str | None
    """The name of the packages that it runs with, if any."""
    sandbox: str
    """The backend of its sandbox."""
    policy: Policy
    metadata: Mapping[str, str]
    """What it was submitted with."""
    priority: int
    """Its place among your waiting jobs: higher ones first."""
    created_at: str
    """When it was accepted: ISO 8601, UTC, to the millisecond."""
    started_at: str | None
    """When a worker began with it; null until then."""
    finished_at: str | None
    """When it was over; null until then."""
    expires_at: str | None
    """When it is no longer kept, perhaps earlier if there is no room; null until it is over."""
    interactive: bool
    """Whether it takes input while it runs."""
    terminal: TerminalSize | None
    """The size with which its terminal began; null if it has none."""
    limits: Mapping[str, float] | None
    """What its program may use; null if an earlier version accepted it."""
    links: JobLinks
    session_id: str | UnsetType = UNSET
    """The session in which it runs; only if it named one."""
    position: int | UnsetType = UNSET
    """Its place in the queue, from 1; only in the document of a job that waits."""
    estimated_wait_s: float | UnsetType = UNSET
    """How long it may still wait; only in the document of a job that waits."""
    result: Annotated[Any, either(Complete, Error)] = UNSET
    """The data of its last event; only once it is over."""


class Job(ListedJob):
    """A job. Its output so far is in its own fields; once it is over, it is in ``result``."""

    stdout: str | UnsetType = UNSET
    """What the program has written to standard output; not once the job is over."""
    stderr: str | UnsetType = UNSET
    """What it has written to standard error; not once the job is over."""
    stdout_truncated: bool | UnsetType = UNSET
    """Whether a part of ``stdout`` is missing; not once the job is over."""
    stderr_truncated: bool | UnsetType = UNSET
    """Whether a part of ``stderr`` is missing; not once the job is over."""
    webhook: WebhookState | UnsetType = UNSET
    """What has become of its webhook; only if it has one."""
    result: Annotated[Any, either(Completed, Failed)] = UNSET
    """The data of its last event, and its output; only once it is over."""


class JobList(Answer):
    """A page of the caller's jobs, the newest first."""

    jobs: Sequence[ListedJob]
    next_cursor: str | None
    """The ``cursor`` of the next page; null on the last one."""


class Cancelled(Answer):
    """A job that will be stopped."""

    job_id: str
    """The id of the job."""
    status: JobState
    """Its present state; a program that runs does so for a moment more."""


class InputTaken(Answer):
    """Input that will be given to the program."""

    job_id: str
    """The id of the job."""
    bytes: int
    """How many bytes were accepted: all of the body."""
    closed: bool
    """Whether this ended the input."""


class Resized(Answer):
    """A size that the job's terminal gets."""

    job_id: str
    """The id of the job."""
    cols: int
    """Its columns."""
    rows: int
    """Its rows."""


class SignalSent(Answer):
    """A signal that will be sent to the program; before it runs each signal is kept once."""

    job_id: str
    """The id of the job."""
    signal: str
    """The name of the signal."""


class Reader(Answer):
    """A client that follows a job."""

    id: int
    """The number of its stream, within the service that answers."""
    peer: str | None
    """Its address; null if the caller may not see it."""
    since: str
    """Since when it has followed: ISO 8601, UTC, to the millisecond."""
    position: int
    """The number of the last event that was sent to it."""
    lag: int
    """How many events are not sent yet."""


class Readers(Answer):
    """Those who follow a job."""

    sessions: Sequence[Reader]


class Environment(Answer):
    """Packages for programs in a language."""

    name: str
    """Its name, for ``environment``."""
    available: bool
    """Whether a worker has it."""
    reason: str | None
    """Why it is not available; null if it is."""
    packages: Mapping[str, str]
    """The packages that programs may rely on, with their versions."""


class Runtime(Answer):
    """A language."""

    name: str
    """Its name, for ``language``."""
    title: str
    """The name that people read."""
    version: str | None
    """The version of its tool in the sandbox; null until the tool has said it, and if workers have
    different ones."""
    aliases: Sequence[str]
    """Its other names."""
    entry: str
    """The name that ``code`` gets as a file, and the default of ``entry``."""
    compiled: bool
    """Whether a compiler runs first."""
    available: bool
    """Whether a worker can run it."""
    reason: str | None
    """Why it is not available; null if it is."""
    environments: Sequence[Environment]
    """The sets of packages for it that the operator has configured."""
    limits: Mapping[str, float]
    """What a job gets that asks for no other limits, by the names that `limits` has."""


class Runtimes(Answer):
    """The configured languages."""

    runtimes: Sequence[Runtime]
    max_limits: Mapping[str, float]
    """The most that a job may ask for, by the names that `limits` has."""


class Sandbox(Answer):
    """A backend."""

    name: str
    """Its name, for ``sandbox``."""
    available: bool
    """Whether it works on a worker's host."""
    reason: str | None
    """Why it is not available; null if it is."""
    isolation: str
    """How far it isolates: ``none``, ``deny_list``, ``namespaces`` or ``virtual_machine``."""
    default: bool
    """Whether jobs run in it that name none."""
    selectable: bool
    """Whether a job may name it."""
    enforces: Mapping[str, str]
    """How each limit is enforced: ``cgroup-v1``, ``cgroup-v2``, ``rlimit``, ``polling``,
    ``tmpfs``, ``timer``, ``counter`` or ``none``; in ``tmpBytes`` whether /tmp has the size of a
    language's own; in ``seccomp`` which of our system call filters there is: ``filter``, ``guard``
    or ``none``."""
    held: int
    """How many of its sandboxes wait for a job, by what the workers have said last."""
    not_held: str | None
    """Why no program waits in them; null if it may."""
    terminals: bool
    """Whether its programs can have a terminal."""
    forks: Sequence[str]
    """The languages whose programs are forked there."""
    not_forked: Mapping[str, str]
    """The languages whose programs would be by the configuration, and why they are not."""


class Sandboxes(Answer):
    """The backends."""

    sandboxes: Sequence[Sandbox]
    default: str
    """The name of the backend of jobs that name none."""


class WaitingJob(Answer):
    """A job of yours that waits."""

    job_id: str
    """The id of the job."""
    position: int
    """Its place in the queue, from 1."""
    estimated_wait_s: float
    """How long it may still wait."""


class OwnQueue(Answer):
    """What of the queue is yours."""

    running: int
    """How many of your jobs run."""
    waiting: int
    """How many of your jobs wait."""
    max_running: int | None
    """How many of your jobs may run at a time; null if no limit is yours alone."""
    jobs: Sequence[WaitingJob]
    """The next ten of those that wait, in their order."""


class Queue(Answer):
    """How busy the service is."""

    running: int
    """How many jobs run."""
    waiting: int
    """How many jobs wait."""
    capacity: int
    """How many jobs run at a time."""
    max_waiting: int
    """How many jobs may wait."""
    estimated_wait_s: float
    """How long a job of yours would wait that came now, perhaps."""
    own: OwnQueue


class Health(Answer):
    """The process answers."""

    status: Literal["ok"]
    streams: int
    """How many event streams and downloads are open."""


class ReadinessChecks(Answer):
    """What was checked; each is false if it has failed."""

    accepting: bool
    """It has started, and is not draining."""
    sandbox: bool
    """The default backend passed its last test, and has not failed to run three jobs in a row."""
    takedown: bool
    """No process of an ended job or of a template resists being killed."""
    engine: bool
    """The engine accepts jobs."""
    languages: bool
    """The host has a language, or commands are allowed."""
    processes: bool
    """All processes of the service (`server.workers`) accept jobs."""


class Readiness(Answer):
    """Whether the service accepts jobs."""

    ready: bool
    """Whether all checks passed."""
    checks: ReadinessChecks


class JobFile(Answer):
    """A file that a job has left."""

    name: str
    """Its path in the workspace."""
    bytes: int
    """Its size."""
    sha256: str
    """Its SHA-256, in hexadecimal digits."""
    url: str
    """Where it can be downloaded."""


class Files(Answer):
    """The files that a job has left."""

    files: Sequence[JobFile]
    """In the order of their names."""


class ProjectFile(Answer):
    """A file of a project."""

    name: str
    """Its path in the project."""
    bytes: int
    """Its size."""


class Project(Answer):
    """A project that was uploaded."""

    project_id: str
    """What a job names in ``projectId``."""
    files: Sequence[ProjectFile]
    """Its files, in the order in which they came."""
    expires_at: str
    """When it is deleted: ISO 8601, UTC, to the millisecond."""


class Problem(Answer):
    """Why a request was refused (RFC 9457)."""

    type: Literal["about:blank"]
    """Always this: ``code`` tells problems apart."""
    title: str
    """The name of the status."""
    status: int
    """The status of the response."""
    detail: str
    """What is wrong, for people. It never has a path of the server or a traceback."""
    code: str
    """What is wrong, for programs."""
    path: str | UnsetType = UNSET
    """The place in the request: ``$.limits.wallTimeS`` in the body, ``?limit`` in the query, or
    the name of a header."""

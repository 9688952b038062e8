"""Define the events of a job: a closed union.

An event is encoded once, by `encode`, where it is made. After that it travels as its kind
and its JSON text; only Python callers turn it back into an object, with `decode`.
Times are milliseconds, `t` counts from the moment the job was accepted; sizes are bytes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Literal, cast

import msgspec

if TYPE_CHECKING:
    # With defaults, so that `Event` alone is any event; the run time has them from 3.13 on.
    from typing_extensions import TypeVar

    K_co = TypeVar("K_co", bound=str, covariant=True, default=str)
    D_co = TypeVar("D_co", covariant=True, default="JobEvent")
else:
    from typing import TypeVar

    K_co = TypeVar("K_co", bound=str, covariant=True)
    D_co = TypeVar("D_co", covariant=True)

__all__ = [
    "KINDS",
    "TERMINAL_KINDS",
    "AnyEvent",
    "Artifact",
    "ArtifactFailure",
    "CaseEnd",
    "Complete",
    "Error",
    "Event",
    "Gap",
    "JobEvent",
    "Output",
    "Reason",
    "Stats",
    "Status",
    "Truncated",
    "decode",
    "encode",
    "numbered",
]

Reason = Literal[
    "exited",
    "signaled",
    "wall_time",
    "cpu_time",
    "memory",
    "output_limit",
    "disk",
    "cancelled",
]
"""Why a program ended: the closed list of verdicts."""

StreamName = Literal["stdout", "stderr"]
PhaseName = Literal["compile", "run"]
State = Literal["queued", "preparing", "compiling", "running"]
FailureReason = Literal[
    "no_match",
    "not_a_file",
    "bad_name",
    "unreadable",
    "too_many_files",
    "too_large",
    "storage_full",
    "search_incomplete",
    "timeout",
    "sandbox_gone",
    "internal",
]
"""Why a file, or what a pattern stands for, was not kept."""
ErrorCode = Literal["sandbox_error", "worker_lost", "shutting_down", "internal"]


class Status(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The job has reached a state. `position` in the queue counts from 1.

    With it comes how long the job would still wait, by what is known of the others.

    The first event of every log is a Status and has the job's id. A job that is to be run again is
    ``queued`` once more: then there is a `reason`, and an `attempt` if its programs have run.
    """

    state: State
    """Where the job is now."""
    t: int
    """When: milliseconds since the job was accepted."""
    position: int | None = None
    """Its place in the queue, while it is queued; told again as it comes nearer."""
    estimated_wait_ms: int | None = None
    """How long it may still wait, while it is queued; told again when that changes much."""
    job_id: str | None = None
    """The id of the job, in the first event of its log."""
    attempt: int | None = None
    """Which attempt comes now, from 2 on, if the job is run again from the start."""
    reason: Literal["worker_lost", "shutting_down"] | None = None
    """Why it is queued again: its worker is gone, or stops."""


class Output(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the program wrote, in the order in which it was read.

    `data` is text, or base64 where `encoding` says so; `lossy` marks text in which
    invalid UTF-8 was replaced by U+FFFD.
    """

    stream: StreamName
    """Where the program wrote to."""
    data: str
    """What it wrote: text, or base64."""
    t: int
    """When it was read: milliseconds since the job was accepted."""
    phase: PhaseName
    """Whether the compiler or the program wrote it."""
    lossy: bool = False
    """Whether invalid UTF-8 was replaced by U+FFFD."""
    encoding: Literal["base64"] | None = None
    """Whether ``data`` is base64; else it is text."""
    case: int | None = None
    """The number of the case that wrote it, from 0."""

    @property
    def raw(self) -> bytes:
        """The bytes of `data`: those that the program wrote if it is base64, else its UTF-8."""
        return base64.b64decode(self.data) if self.encoding else self.data.encode()


class Truncated(msgspec.Struct, frozen=True, rename="camel"):
    """The output limit was reached: `dropped_bytes` of `stream` were lost. Comes before the end."""

    stream: StreamName
    """Which output is incomplete."""
    dropped_bytes: int
    """How many bytes were dropped."""


class Gap(msgspec.Struct, frozen=True, rename="camel"):
    """The events from `from_` to `to` are no longer kept.

    Sent to the reader that asked for them, and part of no log. `to` is None if the whole job
    has expired and the number of its events is unknown.
    """

    from_: int = msgspec.field(name="from")
    """The number of the first event that is no longer kept."""
    to: int | None
    """The number of the last one; null if the whole job has expired."""
    reason: str = "retention"
    """Why: ``retention`` or ``expired``."""


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """A file that the job left and that can be downloaded."""

    name: str
    """The path of the file in the workspace."""
    bytes: int
    """Its size."""
    sha256: str
    """Its SHA-256, in hexadecimal digits."""
    url: str
    """Where it can be downloaded."""


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """What the job uses while its programs run, once a second.

    Only for readers that ask for it (``?stats=1``). It is part of no log: it has no id, is told
    when it is measured, and never again.
    """

    cpu_time_ms: int | None
    """The CPU time of its programs so far, together; null where nothing measures it."""
    memory_bytes: int | None
    """Its memory now, without files that the kernel has in its cache; null as before."""
    processes: int | None
    """How many processes and threads it has now; null as before."""
    t: int
    """When: milliseconds since the job was accepted."""


class CaseEnd(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The verdict of one case, after its output."""

    index: int
    """Its place among the cases, from 0."""
    reason: Reason
    """Why the program ended."""
    exit_code: int | None
    """Its exit code; null if a signal ended it, or if it was not started."""
    signal: str | None
    """The signal that ended it, as ``SIGKILL``; else null."""
    duration_ms: int
    """How long it ran."""
    cpu_time_ms: int | None
    """Its CPU time; null where nothing measures it."""
    peak_memory_bytes: int | None
    """Its highest memory; null where nothing measures it."""
    timed_out: bool
    """Whether a time limit ended it."""
    oom_killed: bool
    """Whether its memory limit ended it."""
    output_bytes: int
    """The bytes of its output in the log, of both streams together."""
    output_truncated: bool
    """Whether output was dropped at the output limit."""
    t: int
    """When it was over: milliseconds since the job was accepted."""
    name: str | None = None
    """The name that it was submitted with."""

    @property
    def passed(self) -> bool:
        """Whether the program exited with 0."""
        return self.reason == "exited" and self.exit_code == 0


class ArtifactFailure(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A file that was not kept, by its `name`; or a pattern, in `glob`, of which that is true."""

    reason: FailureReason
    """Why not."""
    name: str | None = None
    """The path of the file in the workspace; characters that cannot be shown are U+FFFD."""
    glob: str | None = None
    """The pattern, if it is not about one file."""


class Complete(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The verdict, and the last event, of a job whose program ran.

    One of `exit_code` and `signal` (``SIGKILL``) is None, and both if no program was started.
    `duration_ms` and `cpu_time_ms` are the sums of the programs, `peak_memory_bytes` is their
    highest; both of the latter are None where nothing measures them. `output_bytes` is what the
    log has of the output, in both streams together; `phase` is that of the last program.

    With `cases`, why it ended is that of the first case that did not exit with 0. Of a job that was
    run again, all is that of the last attempt.
    """

    reason: Reason
    """Why the program ended."""
    exit_code: int | None
    """Its exit code; null if a signal ended it, or if it was not started."""
    signal: str | None
    """The signal that ended it, as ``SIGKILL``; else null."""
    duration_ms: int
    """How long its programs ran, together."""
    cpu_time_ms: int | None
    """The CPU time of its programs together; null where nothing measures it."""
    peak_memory_bytes: int | None
    """The highest memory of its programs; null where nothing measures it."""
    timed_out: bool
    """Whether a time limit ended it."""
    oom_killed: bool
    """Whether its memory limit ended it."""
    output_bytes: int
    """The bytes of output in the log, of both streams together."""
    output_truncated: bool
    """Whether output was dropped at the output limit."""
    sandbox: str
    """The backend of its sandbox."""
    phase: PhaseName
    """Which program was the last one; ``compile`` if that failed."""
    cached: bool = False
    """Whether no compiler ran, since what it makes was still there of an earlier job of yours."""
    cases: tuple[CaseEnd, ...] | None = None
    """The verdicts of the cases that ran, in their order; only of a job with cases."""
    artifacts_failed: tuple[ArtifactFailure, ...] = ()
    """What ``artifacts`` asked for and was not kept, the first 20; never changes the verdict."""
    attempts: int = 1
    """Its attempts, if more than one: the last one counts though it was cancelled before it ran."""


class Error(msgspec.Struct, frozen=True, rename="camel"):
    """The last event of a job that could not be run, through a fault of the service or host."""

    code: ErrorCode
    """Whose fault it was."""
    message: str
    """What happened, for people."""


JobEvent = Status | Output | Truncated | Gap | Artifact | Stats | CaseEnd | Complete | Error


@dataclass(frozen=True, slots=True)
class Event(Generic[K_co, D_co]):
    """One event of a job for Python callers; `id` is the number to resume after.

    `kind` tells the type of `data`, and a type checker knows it (`AnyEvent`). A `Gap` stands for
    lost events and has the id of the last of them.
    """

    id: int
    kind: K_co
    data: D_co


AnyEvent = (
    Event[Literal["status"], Status]
    | Event[Literal["output"], Output]
    | Event[Literal["truncated"], Truncated]
    | Event[Literal["gap"], Gap]
    | Event[Literal["artifact"], Artifact]
    | Event[Literal["stats"], Stats]
    | Event[Literal["case"], CaseEnd]
    | Event[Literal["complete"], Complete]
    | Event[Literal["error"], Error]
)
"""An event of which a comparison of `kind` or a test of `data` tells a type checker the other."""

KINDS: Final[dict[str, type[JobEvent]]] = {
    "status": Status,
    "output": Output,
    "truncated": Truncated,
    "gap": Gap,
    "artifact": Artifact,
    "stats": Stats,
    "case": CaseEnd,
    "complete": Complete,
    "error": Error,
}

TERMINAL_KINDS: Final = frozenset({"complete", "error"})
"""Every log ends with exactly one event of these kinds."""

_KIND_OF: Final = {struct: kind for kind, struct in KINDS.items()}
_encoder: Final = msgspec.json.Encoder()

LARGE_CHARS: Final = 4096
"""A longer output is encoded in another way, with the same result."""

# JSON text may hold U+0085, U+2028 and U+2029 as they are, and the EventSource
# specification splits on CR and LF only. Clients that split with str.splitlines
# (several Python ones) break such a line in two, so they travel escaped.
_LINE_BREAKS: Final = (
    (b"\xc2\x85", b"\\u0085"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def encode(event: JobEvent) -> tuple[str, bytes]:
    """Return the kind and the JSON text (UTF-8, one line) of an event."""
    if isinstance(event, Output) and len(event.data) > LARGE_CHARS:
        data = _encode_large(event)
    else:
        data = _encoder.encode(event)
    if not data.isascii():  # each search costs more than the encoding itself
        for raw, escaped in _LINE_BREAKS:
            if raw in data:
                data = data.replace(raw, escaped)
    return _KIND_OF[type(event)], data


def _encode_large(event: Output) -> bytes:
    """Do the same as the encoder, in half of the time.

    It makes the text of a value in a buffer that grows, and copies it whenever that is full.
    """
    return b'{"stream":"%b","data":%b,"t":%d,"phase":"%b"%b%b%b}' % (
        event.stream.encode(),
        _encoder.encode(event.data),
        event.t,
        event.phase.encode(),
        b',"lossy":true' if event.lossy else b"",
        b',"encoding":"base64"' if event.encoding else b"",
        b"" if event.case is None else b',"case":%d' % event.case,
    )


def decode(kind: str, data: bytes) -> JobEvent:
    """Undo `encode`. Raises KeyError for an unknown kind."""
    return msgspec.json.decode(data, type=KINDS[kind])


def numbered(number: int, kind: str, data: bytes) -> AnyEvent:
    """Return an event of a log from its JSON text. Raises KeyError for an unknown kind."""
    # What the union says, each kind with its type, is what KINDS says.
    return cast("AnyEvent", Event(number, kind, decode(kind, data)))

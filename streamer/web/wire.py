"""Parse the bodies of the HTTP interface into values.

Names in JSON are camelCase. Errors name the place in the body (``$.files[0].name``); unknown fields
are refused, so that a typo is never silently ignored.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta

from streamer.errors import InvalidJob, cut, quoted
from streamer.jobs.resolve import MAX_FILES
from streamer.model.job import (
    MAX_CASES,
    MAX_RETRIES,
    PRIORITIES,
    Case,
    JobSpec,
    SourceFile,
    TerminalSize,
)
from streamer.model.names import camel
from streamer.model.session import SessionSpec
from streamer.model.webhook import Webhook

__all__ = [
    "MAX_BATCH",
    "MODE",
    "parse_cases",
    "parse_grant",
    "parse_job",
    "parse_session",
    "parse_signal",
    "parse_size",
    "parts_of",
]

MAX_BATCH: Final = 100
"""How many jobs may be submitted at once."""

UNKNOWN_FIELD: Final = "Object contains unknown field `"
UNKNOWN_VALUE: Final = "Invalid enum value '"
AT: Final = " - at `$"
"""The end of a message of msgspec with a path; nothing in it is chosen by the caller."""
TOO_MANY_CASES: Final = f"too many cases: {MAX_CASES} at most"
TOO_MANY_JOBS: Final = f"Expected `array` of at most length {MAX_BATCH}"
"""What msgspec says of a longer one."""
MAX_NAME_CHARS: Final = 40
"""A longer name is like none of ours, and comparing it could take long."""
INDEX: Final = re.compile(r"\[[^]]*\]")
MODE: Final = re.compile(r"0?[0-7]{3}")
RANGE: Final = Meta(extra_json_schema={"minimum": PRIORITIES[0], "maximum": PRIORITIES[-1]})


class _Parsed(threading.local):
    """What of the body that is being parsed has a bound."""

    cases = 0


_parsed: Final = _Parsed()


# `null` means "not given" for every optional field.
class _File(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A file, put into the workspace before the program starts."""

    name: str
    """A relative path, separated by ``/``, that stays inside the workspace."""
    content: str
    """Its content: text, or base64."""
    encoding: Literal["utf-8", "base64"] | None = None
    """How ``content`` is encoded; ``utf-8`` by default."""
    mode: Annotated[str, Meta(extra_json_schema={"pattern": f"^{MODE.pattern}$"})] | None = None
    """Its permission bits, three octal digits; ``"0644"`` by default."""


class _Terminal(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The size of a pseudo-terminal, in characters."""

    cols: int
    """How many columns."""
    rows: int
    """How many rows."""


class _Limits(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """How much a job may use, up to ``limits.max``; what is left out is as in ``limits.default``.

    A size may be text with a unit, such as ``"256MiB"``. CPU time and memory are those of all
    processes together.
    """

    wall_time_s: float | int | None = None
    """How long it may run, in seconds."""
    cpu_time_s: float | int | None = None
    """How much CPU time it may use, in seconds."""
    memory_bytes: int | str | None = None
    """How much memory it may use."""
    processes: int | None = None
    """How many processes and threads it may have at a time."""
    open_files: int | None = None
    """How many files each process may have open."""
    file_bytes: int | str | None = None
    """How large one file may become."""
    disk_bytes: int | str | None = None
    """How much it may write to files in all."""
    output_bytes: int | str | None = None
    """How much it may write to standard output and standard error together."""
    stack_bytes: int | str | None = None
    """The stack of the first thread of each process."""


class _Case(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One of several runs of the program, in a sandbox of its own."""

    stdin: str | None = None
    """Text for its standard input, in place of the job's."""
    args: list[str] | None = None
    """Its arguments, in place of the job's."""
    env: dict[str, str] | None = None
    """Variables besides those of the job."""
    limits: _Limits | None = None
    """Its limits, none of which may be above that of the job."""
    name: str | None = None
    """What its verdict is called."""

    def __post_init__(self) -> None:
        # Not when all are there: 8 kB of gzip are millions of them, a second and 200 MB.
        _parsed.cases += 1
        if _parsed.cases > MAX_CASES:
            raise ValueError(TOO_MANY_CASES)


class _Webhook(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """To whom the end of the job is told."""

    url: str
    """The address that gets a POST; ``https`` only, unless the operator allows its host."""
    events: list[Literal["complete", "error"]] | None = None
    """With which events it is told; by default with both that can end a job."""


class _JobRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A job. One of ``language`` and ``command`` is needed.

    All else may be left out, or be null.
    """

    language: str | None = None
    """The name of a language, or one of its aliases."""
    command: list[str] | None = None
    """A program and its arguments, never a shell command line; only if ``sandbox.allow_command`` is
    set."""
    code: str | None = None
    """The text of the program: short for one file with the language's entry name."""
    files: list[_File] | None = None
    """The files of the program."""
    project_id: str | None = None
    """An uploaded project."""
    session_id: str | None = None
    """Run in the workspace of this session, after its other jobs. It has the files that they have
    left; ``projectId`` and ``cases`` are refused, and another ``environment`` than its own."""
    entry: str | None = None
    """The file that is run; by default the language's entry name."""
    args: list[str] | None = None
    """The arguments of the program."""
    env: dict[str, str] | None = None
    """Variables of its environment, besides those of the language."""
    stdin: str | None = None
    """Text for its standard input."""
    interactive: bool | None = None
    """Whether its standard input is kept open for more."""
    terminal: _Terminal | None = None
    """Run it on a pseudo-terminal of this size."""
    limits: _Limits | None = None
    network: bool | None = None
    """Whether it may use the network; only where ``sandbox.network`` allows it."""
    sandbox: str | None = None
    """The name of a backend; only those of ``sandbox.allow``."""
    environment: str | None = None
    """The name of a set of packages that the operator has built for the language."""
    artifacts: list[str] | None = None
    """Patterns of the files that are kept when it ends, such as ``out/**/*.png``."""
    output_encoding: Literal["utf-8", "base64"] | None = None
    """How output is sent. With ``utf-8`` (the default) invalid bytes become U+FFFD; ``base64``
    keeps every byte."""
    metadata: dict[str, str] | None = None
    """Texts that are returned with the job."""
    cases: list[_Case] | None = None
    """Compile the program once, and run it once for each of these. No case sees what an earlier one
    has left."""
    stop_on_failure: bool | None = None
    """Whether the first case that does not exit with 0 is the last."""
    priority: Annotated[int, RANGE] | None = None
    """A higher one comes before your other waiting jobs; 0 by default."""
    retry: Annotated[int, Meta(ge=0, le=MAX_RETRIES)] | None = None
    """How often it is run again, from the start, when its worker is lost. The log says so."""
    webhook: _Webhook | None = None
    """To whom its end is told; only where ``webhooks.enabled`` allows it."""


class _SessionRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A session. All may be left out, or be null."""

    sandbox: str | None = None
    """The name of a backend; only those of ``sandbox.allow``."""
    limits: _Limits | None = None
    """The most that each of its jobs may use; by default what every language needs by default."""
    network: bool | None = None
    """Whether its jobs may use the network; only where ``sandbox.network`` allows it."""
    project_id: str | None = None
    """An uploaded project, which is in the workspace from the start."""
    environment: str | None = None
    """Packages of the operator's, for all of its jobs in a language that they are for."""
    languages: list[str] | None = None
    """Those that its jobs may be in; by default those of the worker that has the most."""
    keep_processes: bool | None = None
    """Whether what a job leaves running goes on, until the session's end."""
    idle_s: float | None = None
    """After so many seconds without a job or a request it ends, at most ``sessions.idle_s``."""
    metadata: dict[str, str] | None = None
    """Texts that are returned with the session."""


class _GrantRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A grant. All may be left out, or be null."""

    expires_s: Annotated[float, Meta(ge=1)] | None = None
    """After how many seconds it opens nothing any more: an hour, at most ``auth.grant_max_s``."""
    files: bool | None = None
    """Whether it opens the files that the job has left, too; by default it does."""


class _ResizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Another size of a terminal, in characters."""

    cols: int
    """How many columns."""
    rows: int
    """How many rows."""


class _SignalRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A signal for a program."""

    signal: str
    """Its name as in ``kill -l``: ``SIGINT``, ``SIGRTMIN+3``."""


# Not a list, of which all would be there before they are counted: 8 kB of gzip are millions.
_Batch: Final = msgspec.defstruct(
    "_Batch",
    [(f"part{number}", msgspec.Raw, UNSET) for number in range(MAX_BATCH)],
    array_like=True,
    forbid_unknown_fields=True,
)

PARTS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "$[]": _Case,
    "$[].limits": _Limits,
    "$.cases[]": _Case,
    "$.cases[].limits": _Limits,
    "$.files[]": _File,
    "$.limits": _Limits,
    "$.terminal": _Terminal,
    "$.webhook": _Webhook,
}

_batches: Final = msgspec.json.Decoder(_Batch)
_sessions: Final = msgspec.json.Decoder(_SessionRequest)
_jobs: Final = msgspec.json.Decoder(_JobRequest)
_cases: Final = msgspec.json.Decoder(list[_Case])
_grants: Final = msgspec.json.Decoder(_GrantRequest)
_sizes: Final = msgspec.json.Decoder(_ResizeRequest)
_signals: Final = msgspec.json.Decoder(_SignalRequest)


def parse_job(body: bytes | bytearray) -> JobSpec:
    """Return the job that a body describes. Raises `InvalidJob`."""
    request: _JobRequest = _decode(_jobs, body)
    if request.command is not None and not request.command:
        raise InvalidJob("the command is empty", path="$.command")
    # Before they are converted: a body may contain 300,000, which take 8 kB with gzip.
    if request.files is not None and len(request.files) > MAX_FILES:
        raise InvalidJob(
            f"{len(request.files)} files are too many: {MAX_FILES} at most", path="$.files"
        )
    cases = request.cases or ()
    if request.cases is not None and not cases:
        raise InvalidJob("there are no cases: give one, or leave it out", path="$.cases")
    size = request.terminal
    return JobSpec(
        language=request.language,
        command=tuple(request.command or ()),
        code=request.code,
        files=tuple(_file(file, f"$.files[{i}]") for i, file in enumerate(request.files or ())),
        project_id=request.project_id,
        session_id=request.session_id,
        entry=request.entry,
        args=tuple(request.args or ()),
        env=request.env or {},
        stdin=None if request.stdin is None else _text(request.stdin, "$.stdin"),
        interactive=bool(request.interactive),
        terminal=None if size is None else TerminalSize(size.cols, size.rows),
        limits=_limits(request.limits),
        network=bool(request.network),
        sandbox=request.sandbox,
        environment=request.environment,
        artifacts=tuple(request.artifacts or ()),
        output_encoding=request.output_encoding or "utf-8",
        metadata=request.metadata or {},
        cases=tuple(_case(case, f"$.cases[{i}]") for i, case in enumerate(cases)),
        stop_on_failure=bool(request.stop_on_failure),
        priority=request.priority or 0,
        retry=request.retry or 0,
        webhook=None if request.webhook is None else _webhook(request.webhook),
    )


def parts_of(body: bytes | bytearray) -> Iterator[bytes]:
    """Yield the elements of a JSON array, as they stand in it. Raises `InvalidJob` at once."""
    batch = _decode(_batches, body)
    found = (getattr(batch, name) for name in batch.__struct_fields__)
    return (bytes(part) for part in found if part is not UNSET)


def parse_cases(body: bytes) -> tuple[Case, ...]:
    """Return the cases of a JSON array, as they are in a job. Raises `InvalidJob`."""
    cases: list[_Case] = _decode(_cases, body)
    return tuple(_case(case, f"$[{i}]") for i, case in enumerate(cases))


def parse_session(body: bytes | bytearray) -> SessionSpec:
    """Return the session that a body describes; without a body all is as configured."""
    request: _SessionRequest = _decode(_sessions, body) if body else _SessionRequest()
    return SessionSpec(
        sandbox=request.sandbox,
        limits=_limits(request.limits),
        network=bool(request.network),
        project_id=request.project_id,
        environment=request.environment,
        languages=tuple(request.languages or ()),
        keep_processes=bool(request.keep_processes),
        idle_s=request.idle_s,
        metadata=request.metadata or {},
    )


def parse_grant(body: bytes | bytearray) -> _GrantRequest:
    """Return the grant that a body asks for. Raises `InvalidJob`."""
    request: _GrantRequest = _decode(_grants, body) if body else _GrantRequest()
    return request


def parse_signal(body: bytes | bytearray) -> str:
    """Return the name in ``{"signal": "SIGINT"}``. Raises `InvalidJob`."""
    request: _SignalRequest = _decode(_signals, body)
    return request.signal


def parse_size(body: bytes | bytearray) -> TerminalSize:
    """Return the size in ``{"cols": 80, "rows": 24}``. Raises `InvalidJob`."""
    request: _ResizeRequest = _decode(_sizes, body)
    return TerminalSize(request.cols, request.rows)


def _limits(limits: _Limits | None) -> dict[str, float | str]:
    return {
        name: value
        for name in _Limits.__struct_fields__
        if (value := getattr(limits, name, None)) is not None
    }


def _webhook(webhook: _Webhook) -> Webhook:
    events = webhook.events
    return Webhook(webhook.url) if events is None else Webhook(webhook.url, tuple(events))


def _case(case: _Case, path: str) -> Case:
    return Case(
        stdin=None if case.stdin is None else _text(case.stdin, f"{path}.stdin"),
        args=None if case.args is None else tuple(case.args),
        env=case.env or {},
        limits=_limits(case.limits),
        name=case.name,
    )


def _file(file: _File, path: str) -> SourceFile:
    if file.encoding == "base64":
        try:
            content = base64.b64decode(file.content, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidJob("the content is not valid base64", path=f"{path}.content") from None
    else:
        content = _text(file.content, f"{path}.content")
    mode = "0644" if file.mode is None else file.mode
    if not MODE.fullmatch(mode):
        raise InvalidJob('the mode must be three octal digits, such as "755"', path=f"{path}.mode")
    return SourceFile(file.name, content, int(mode, 8))


def _text(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path=path) from None


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes | bytearray) -> Any:
    _parsed.cases = 0
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJob(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidJob("the body is nested too deeply", code="invalid_json") from None


def _refusal(message: str, body: Any) -> InvalidJob:
    """Return the error for a message of msgspec about a `body`.

    Without a regular expression: the message may contain megabytes from the caller.
    """
    detail, at, path = message.rpartition(AT)
    detail, path = (detail, f"${path[:-1]}") if at else (message, "$")
    if detail == TOO_MANY_JOBS:
        return InvalidJob(f"too many jobs: {MAX_BATCH} at most", path=path)
    if detail == TOO_MANY_CASES:
        return InvalidJob(detail, path=path.rpartition("[")[0])
    if detail.startswith(UNKNOWN_FIELD):
        name = detail[len(UNKNOWN_FIELD) : -1]
        known = PARTS.get(INDEX.sub("[]", path), body).__struct_encode_fields__
        return InvalidJob(
            f"unknown field {quoted(name)}; {_remedy(name, known)}", path=f"{path}.{cut(name)}"
        )
    if detail.startswith(UNKNOWN_VALUE):
        return InvalidJob(f"unknown value {quoted(detail[len(UNKNOWN_VALUE) : -1])}", path=path)
    return InvalidJob(detail, path=path)


def _remedy(name: str, known: Sequence[str]) -> str:
    if len(name) <= MAX_NAME_CHARS and (
        close := difflib.get_close_matches(camel(name), known, n=1)
    ):
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known)}"

"""Turn the bytes of the HTTP interface into values, and values into its JSON.

Names are camelCase here and nowhere else. What is wrong with a body is said with its place
(``$.files[0].name``); unknown fields are refused, so that a typo never passes silently.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from streamer.engine import JobView
from streamer.errors import CallerError, CapacityError, InvalidJob, StreamerError
from streamer.jobs import JobSpec, SourceFile, TerminalSize

__all__ = ["dump", "job_document", "parse_job", "parse_signal", "problem", "timestamp"]

TITLES: Final = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    413: "Payload too large",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
}
UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*?)`(?: - at `(.*)`)?$")
AT_PATH: Final = re.compile(r"^(.*?) - at `(.*)`$", re.DOTALL)


class _File(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    content: str
    encoding: Literal["utf-8", "base64"] = "utf-8"
    mode: str = "0644"


class _Terminal(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    cols: int
    rows: int


class _Limits(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    wall_time_s: float | int | msgspec.UnsetType = msgspec.UNSET
    cpu_time_s: float | int | msgspec.UnsetType = msgspec.UNSET
    memory_bytes: int | str | msgspec.UnsetType = msgspec.UNSET
    processes: int | msgspec.UnsetType = msgspec.UNSET
    open_files: int | msgspec.UnsetType = msgspec.UNSET
    file_bytes: int | str | msgspec.UnsetType = msgspec.UNSET
    disk_bytes: int | str | msgspec.UnsetType = msgspec.UNSET
    output_bytes: int | str | msgspec.UnsetType = msgspec.UNSET


class _JobRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    language: str | None = None
    command: list[str] | None = None
    code: str | None = None
    files: list[_File] = []
    project_id: str | None = None
    entry: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    stdin: str | None = None
    interactive: bool = False
    terminal: _Terminal | None = None
    limits: _Limits = msgspec.field(default_factory=_Limits)
    network: bool = False
    sandbox: str | None = None
    artifacts: list[str] = []
    output_encoding: Literal["utf-8", "base64"] = "utf-8"
    metadata: dict[str, str] = {}


class _SignalRequest(msgspec.Struct, forbid_unknown_fields=True):
    signal: str


_jobs: Final = msgspec.json.Decoder(_JobRequest)
_signals: Final = msgspec.json.Decoder(_SignalRequest)
_encoder: Final = msgspec.json.Encoder()


def dump(document: object) -> bytes:
    """Return a document as JSON bytes."""
    return _encoder.encode(document)


def parse_job(body: bytes) -> JobSpec:
    """Return the job that a body describes. Raises `InvalidJob`."""
    request: _JobRequest = _decode(_jobs, body)
    if request.command is not None and not request.command:
        raise InvalidJob("the command is empty", path="$.command")
    limits = {
        name: value
        for name in _Limits.__struct_fields__
        if (value := getattr(request.limits, name)) is not msgspec.UNSET
    }
    size = request.terminal
    return JobSpec(
        language=request.language,
        command=tuple(request.command or ()),
        code=request.code,
        files=tuple(_file(file, f"$.files[{i}]") for i, file in enumerate(request.files)),
        project_id=request.project_id,
        entry=request.entry,
        args=tuple(request.args),
        env=request.env,
        stdin=None if request.stdin is None else _text(request.stdin, "$.stdin"),
        interactive=request.interactive,
        terminal=None if size is None else TerminalSize(size.cols, size.rows),
        limits=limits,
        network=request.network,
        sandbox=request.sandbox,
        artifacts=tuple(request.artifacts),
        output_encoding=request.output_encoding,
        metadata=request.metadata,
    )


def parse_signal(body: bytes) -> str:
    """Return the name in ``{"signal": "SIGINT"}``. Raises `InvalidJob`."""
    request: _SignalRequest = _decode(_signals, body)
    return request.signal


def problem(error: StreamerError) -> dict[str, object]:
    """Return the problem document (RFC 9457) of an error; ours tell callers no more than that."""
    ours = not isinstance(error, CallerError | CapacityError) and error.status == 500
    document: dict[str, object] = {
        "type": "about:blank",
        "title": TITLES.get(error.status, "Error"),
        "status": error.status,
        "detail": "something went wrong on our side" if ours else error.message,
        "code": error.code,
    }
    if isinstance(error, CallerError) and error.path is not None:
        document["path"] = error.path
    return document


def job_document(view: JobView, text: Mapping[str, object], links: Mapping[str, str]) -> object:
    """Return the JSON document of a job.

    `text` is what `streamer.transcript` tells of its output; the result of a finished job repeats
    it.
    """
    document: dict[str, Any] = {
        "jobId": view.job.job_id,
        "status": view.state,
        "language": view.job.language,
        "sandbox": view.job.backend,
        "policy": {
            "backend": view.job.backend,
            "preset": view.job.preset,
            "sha256": view.job.policy,
        },
        "metadata": view.job.metadata,
        "createdAt": timestamp(view.created_at),
        "startedAt": timestamp(view.started_at),
        "finishedAt": timestamp(view.finished_at),
        "links": links,
    }
    document.update(text)
    if view.result is not None:
        document["result"] = {**msgspec.to_builtins(view.result), **text}
    return document


def timestamp(seconds: float | None) -> str | None:
    """Return a time since the epoch in ISO 8601, UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _file(file: _File, path: str) -> SourceFile:
    if file.encoding == "base64":
        try:
            content = base64.b64decode(file.content, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidJob("the content is not valid base64", path=f"{path}.content") from None
    else:
        content = _text(file.content, f"{path}.content")
    if not re.fullmatch(r"0?[0-7]{3}", file.mode):
        raise InvalidJob('the mode is three octal digits, as "0755"', path=f"{path}.mode")
    return SourceFile(file.name, content, int(file.mode, 8))


def _text(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path=path) from None


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
        unknown = UNKNOWN_FIELD.match(message)
        if unknown:
            name, parent = unknown.group(1), unknown.group(2) or "$"
            raise InvalidJob(f"unknown field {name!r}", path=f"{parent}.{name}") from None
        placed = AT_PATH.match(message)
        detail, path = (placed.group(1), placed.group(2)) if placed else (message, "$")
        raise InvalidJob(detail, path=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJob(f"the body is not valid JSON: {error}", code="invalid_json") from None
    except RecursionError:
        raise InvalidJob("the body is nested too deeply", code="invalid_json") from None

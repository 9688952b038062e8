"""A submission as Judge0 shows it: all of its fields, of which a request may choose some."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import streamer
from streamer.compat.judge0.languages import Listed
from streamer.compat.judge0.request import INPUTS, LIMITS, Kept
from streamer.compat.judge0.statuses import (
    NAMES,
    NOT_COMPILED,
    PROCESSING,
    QUEUED,
    exit_signal,
    message,
    status,
)
from streamer.compat.judge0.texts import digest, encoded, plain
from streamer.compat.outcome import Outcome
from streamer.errors import InvalidRequest, UnknownJob
from streamer.events import Complete, Error

__all__ = ["DEFAULT", "chosen", "job_id_of", "shown", "token_of"]

DEFAULT: Final = (
    *("token", "time", "memory", "stdout", "stderr", "compile_output", "message", "status"),
)
OF_RESULT: Final = (
    *("stdout", "stderr", "compile_output", "message", "exit_code", "exit_signal"),
    *("time", "wall_time", "memory"),
)
NEVER: Final = (*("compiler_options", "callback_url", "additional_files"),)
# Those of 1.13.1 and no others: clients may fail on a field that they do not know.
FIELDS: Final = (
    *("source_code", "language_id", "stdin", "expected_output", "status_id", "token"),
    *("created_at", "finished_at"),
    *(*LIMITS, "cpu_extra_time", "number_of_runs", "command_line_arguments"),
    *("enable_per_process_and_thread_time_limit", "enable_per_process_and_thread_memory_limit"),
    *("redirect_stderr_to_stdout", "enable_network", "status", "language"),
    *(*OF_RESULT, *NEVER),
)
TEXTS: Final = frozenset((*INPUTS, "stdout", "stderr", "compile_output", "message"))
"""What is in base64 where that is asked for."""
ID_CHARS: Final = 26


def chosen(text: str | None) -> Sequence[str]:
    """Return the fields that a request asks for. Raises `InvalidRequest`."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    unknown = [name for name in names if name != "*" and name not in FIELDS]
    if unknown:
        raise InvalidRequest(f"invalid fields: [{', '.join(unknown)}]")
    return FIELDS if "*" in names else names or DEFAULT


def token_of(job_id: str) -> str:
    """Return the id of a job in the form of Judge0's tokens, a UUID."""
    return str(uuid.UUID(bytes=base64.b32decode(f"{job_id.upper()}======")))


def job_id_of(token: str) -> str:
    """Return the id of the job with a token. Raises `UnknownJob` for what is none."""
    try:
        data = uuid.UUID(token).bytes
    except ValueError:
        raise UnknownJob("there is no such submission") from None
    return base64.b32encode(data).decode()[:ID_CHARS].lower()


def shown(
    view: streamer.JobView,
    kept: Kept,
    outcome: Outcome | None,
    language: Listed | None,
    fields: Sequence[str],
    *,
    base64: bool,
) -> dict[str, Any]:
    """Return these fields of a submission; `outcome` is None until it is over.

    Raises `NotText` for output that can be given in base64 only.
    """
    found = _all(view, kept, outcome, language)
    return {name: _said(name, found.get(name), base64=base64) for name in fields}


def _all(
    view: streamer.JobView, kept: Kept, outcome: Outcome | None, language: Listed | None
) -> Mapping[str, Any]:
    number = QUEUED if view.state == "queued" else PROCESSING
    result: dict[str, Any] = {}
    if outcome is not None:
        right = kept.expected in (None, digest(outcome.run.stdout))
        if kept.redirect:
            right = kept.expected in (None, digest(outcome.run.output))
        number = status(outcome, right=right)
        result = _result(outcome, number, redirect=kept.redirect)
    return {
        **_inputs(kept),
        **result,
        "token": token_of(view.job.job_id),
        "language_id": kept.language_id,
        "language": {"id": kept.language_id, "name": language.name if language else None},
        "status_id": number,
        "status": {"id": number, "description": NAMES[number]},
        "created_at": _time(view.created_at),
        "finished_at": None if view.finished_at is None else _time(view.finished_at),
        "enable_per_process_and_thread_time_limit": False,
        "enable_per_process_and_thread_memory_limit": False,
        "redirect_stderr_to_stdout": kept.redirect,
    }


def _inputs(kept: Kept) -> dict[str, Any]:
    texts = {name: kept.given[name] for name in INPUTS if name in kept.given}
    return {
        **kept.given,
        **{name: base64.b64decode(text) for name, text in texts.items()},
    }


def _result(outcome: Outcome, number: int, *, redirect: bool) -> dict[str, Any]:
    """Return what is known of a submission once it is over."""
    compiled = bytes(outcome.compile.output) or None
    if number == NOT_COMPILED:
        assert isinstance(outcome.end, Complete)
        late = outcome.end.timed_out
        return {"compile_output": b"Compilation time limit exceeded." if late else compiled}
    ran = outcome.run
    case = outcome.case
    told = {
        "compile_output": compiled,
        "stdout": bytes(ran.output if redirect else ran.stdout) or None,
        "stderr": None if redirect else bytes(ran.stderr) or None,
        "message": message(outcome),
    }
    if isinstance(case, Error) or isinstance(outcome.end, Error):
        return told
    cases = outcome.end.cases or (outcome.end,)
    cpu = [one.cpu_time_ms for one in cases if one.cpu_time_ms is not None]
    memory = [one.peak_memory_bytes for one in cases if one.peak_memory_bytes is not None]
    return {
        **told,
        "exit_code": case.exit_code or 0,
        "exit_signal": exit_signal(case),
        "time": _seconds(sum(cpu) / len(cpu)) if cpu else None,
        "wall_time": _seconds(case.duration_ms),
        "memory": round(sum(memory) / len(memory) / 1024) if memory else None,
    }


def _said(name: str, value: Any, *, base64: bool) -> Any:
    if value is None or name not in TEXTS:
        return value
    data = value.encode() if isinstance(value, str) else value
    return encoded(data) if base64 else plain(data)


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3f}"


def _time(seconds: float) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"

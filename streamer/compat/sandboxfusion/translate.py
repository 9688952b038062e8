"""Translate a ``POST /run_code`` of SandboxFusion into a job, and its end into the answer."""

from __future__ import annotations

import base64
import binascii
import re
import signal
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamer import JobSpec, Limits, SourceFile
from streamer.compat.outcome import Outcome, Printed
from streamer.errors import InvalidRequest
from streamer.events import Complete, Error

__all__ = ["LANGUAGES", "RunCode", "failed", "result", "spec_of"]

MIB: Final = 1024 * 1024
OUTPUT_BYTES: Final = MIB
"""SandboxFusion reads so much of each stream."""
LEAST_MEMORY_BYTES: Final = 8 * MIB
LEAST_S: Final = 0.1
WILD: Final = re.compile(r"[*?[]")
KILLED: Final = -9

LANGUAGES: Final[Mapping[str, str]] = {
    "bash": "bash",
    "cpp": "cpp",
    "csharp": "csharp",
    "go": "go",
    "java": "java",
    "js": "javascript",
    "lua": "lua",
    "nodejs": "javascript",
    "perl": "perl",
    "php": "php",
    "python": "python",
    "R": "r",
    "ruby": "ruby",
    "rust": "rust",
    "sql": "sql",
    "ts": "typescript",
    "typescript": "typescript",
}
"""SandboxFusion's names for our languages. Its test runners, GPU and proof languages are not
among them."""


class RunCode(msgspec.Struct, frozen=True):
    """The body of a ``POST /run_code``; what it has besides is ignored, as there."""

    code: str
    language: str
    compile_timeout: float = 10.0
    run_timeout: float = 10.0
    memory_limit_MB: int = -1  # noqa: N815 - its name
    stdin: str | None = None
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []


def spec_of(run: RunCode, most: Limits, python_environment: str | None = None) -> JobSpec:
    """Return the job of a request; `most` is ``limits.max`` of the service.

    Raises `InvalidRequest`.
    """
    language = LANGUAGES.get(run.language)
    if language is None:
        known = ", ".join(sorted(LANGUAGES))
        raise InvalidRequest(
            f"the language {run.language[:100]!r} is not one of: {known}", path="$.language"
        )
    limits: dict[str, float | str] = {
        "wall_time_s": min(max(run.run_timeout, LEAST_S), most.wall_time_s),
        # It limits only the time on the wall; several threads use more of the processors' time.
        "cpu_time_s": most.cpu_time_s,
        "output_bytes": min(2 * OUTPUT_BYTES, most.output_bytes),
    }
    if run.memory_limit_MB > 0:
        wanted = max(run.memory_limit_MB * MIB, LEAST_MEMORY_BYTES)
        limits["memory_bytes"] = min(wanted, most.memory_bytes)
    for name in run.fetch_files:
        if WILD.search(name):
            raise InvalidRequest(
                f"{name[:100]!r}: a file with *, ? or [ in its name cannot be fetched",
                path="$.fetch_files",
            )
    code = run.code
    if language == "php" and not code.lstrip().startswith("<?php"):
        code = f"<?php\n{code}"
    return JobSpec(
        language=language,
        code=code,
        files=_files(run.files),
        stdin=None if run.stdin is None else run.stdin.encode("utf-8", "surrogatepass"),
        limits=limits,
        environment=python_environment if language == "python" else None,
        artifacts=tuple(dict.fromkeys(name.removeprefix("./") for name in run.fetch_files)),
    )


def result(ran: Outcome, *, compiled: bool, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the answer to a request; `compiled` says whether its language has a compiler."""
    if isinstance(ran.end, Error):
        return failed(ran.end.message)
    end, compiler, program = ran.end, None, None
    compile_ms = min(ran.compiled_ms, end.duration_ms)
    if compiled and end.phase == "compile":
        compiler = _command(end, end.duration_ms, ran.compile)
    else:
        if compiled:
            compiler = _finished(compile_ms, 0, ran.compile)
        program = _command(end, end.duration_ms - compile_ms, ran.run)
    clean = end.reason == "exited" and end.exit_code == 0
    return {
        "status": "Success" if clean else "Failed",
        "message": "",
        "compile_result": compiler,
        "run_result": program,
        "executor_pod_name": None,
        "files": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }


def failed(message: str) -> dict[str, Any]:
    """Return the answer if the fault is on our side; clients repeat such a request."""
    return {
        "status": "SandboxError",
        "message": message,
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": None,
        "files": {},
    }


def _files(given: Mapping[str, str | None]) -> tuple[SourceFile, ...]:
    files = []
    for name, content in given.items():
        if content is None:
            continue
        try:
            files.append(SourceFile(name.removeprefix("./"), _decoded(content)))
        except (binascii.Error, ValueError):
            raise InvalidRequest(
                f"the contents of {name[:100]!r} are not base64", path="$.files"
            ) from None
    return tuple(files)


def _decoded(content: str) -> bytes:
    return base64.b64decode("".join(content.split()), validate=True)


def _command(end: Complete, took_ms: int, printed: Printed) -> dict[str, Any]:
    """Return how one of the two commands ended that did not just succeed."""
    if end.reason in ("wall_time", "cpu_time"):
        return _said("TimeLimitExceeded", took_ms, None, printed)
    if end.reason == "exited" and end.exit_code is not None:
        return _finished(took_ms, end.exit_code, printed)
    if end.reason == "signaled":
        return _finished(took_ms, -_number(end.signal or ""), printed)
    killed = _finished(took_ms, KILLED, printed)
    return {**killed, "stderr": f"{killed['stderr']}killed: {end.reason}\n"}


def _number(name: str) -> int:
    known = signal.Signals.__members__
    return known[name].value if name in known else signal.SIGKILL.value


def _finished(took_ms: int, code: int, printed: Printed) -> dict[str, Any]:
    return _said("Finished", took_ms, code, printed)


def _said(status: str, took_ms: int, code: int | None, printed: Printed) -> dict[str, Any]:
    return {
        "status": status,
        "execution_time": took_ms / 1000,
        "return_code": code,
        "stdout": printed.stdout.decode(errors="replace"),
        "stderr": printed.stderr.decode(errors="replace"),
    }

"""Translate a ``POST /v1/sandbox/run`` of Dify into a job, and its end into the answer."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from streamer import JobSpec
from streamer.compat.outcome import Outcome
from streamer.events import Complete, Error

__all__ = ["LANGUAGES", "Run", "problem", "result", "spec_of", "success"]

LANGUAGES: Final[Mapping[str, str]] = {"nodejs": "javascript", "python3": "python"}
TIMED_OUT: Final = -1
"""The exit code of a program that was ended at a limit; Go says so of one that a signal ended."""


class Run(msgspec.Struct, frozen=True):
    """The body of a request; what it has besides is ignored, as there.

    `preload` is ignored too, as by Dify's own sandbox unless it is switched on: it is code that
    would run before the program is confined.
    """

    language: str
    code: str
    preload: str = ""
    enable_network: bool = False


def spec_of(run: Run, *, network: bool, python_environment: str | None = None) -> JobSpec | None:
    """Return the job of a request, None for a language that Dify does not have either.

    Dify asks for the network with every program, so it gets it only if the configuration allows it
    (`network`).
    """
    language = LANGUAGES.get(run.language)
    if language is None:
        return None
    return JobSpec(
        language=language,
        code=run.code,
        network=run.enable_network and network,
        environment=python_environment if language == "python" else None,
    )


def result(ran: Outcome) -> dict[str, Any]:
    """Return the answer to a run by how its job ended."""
    if isinstance(ran.end, Error):
        return problem(-500, ran.end.message)
    code, why = _ended(ran.end)
    stderr = ran.run.stderr.decode(errors="replace")
    error = ""
    if code != 0:
        error = f"process exited with code {code}"
        for detail in filter(None, (why, stderr)):
            error += ("" if error.endswith("\n") else "\n") + detail
    stdout = ran.run.stdout.decode(errors="replace")
    return success({"stdout": stdout, "stderr": stderr, "error": error, "exit_code": code})


def success(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": 0, "message": "success", "data": data}


def problem(code: int, message: str) -> dict[str, Any]:
    """Return what Dify shows to the author of a workflow; `code` is negative."""
    return {"code": code, "message": message, "data": None}


def _ended(end: Complete) -> tuple[int, str]:
    """Return the exit code and, if that was not the program's own end, a line about it."""
    if end.reason == "exited":
        return end.exit_code or 0, ""
    if end.reason in ("wall_time", "cpu_time"):
        return TIMED_OUT, "error: timeout\n"
    if end.reason == "signaled":
        known = signal.Signals.__members__
        if end.signal == "SIGSYS":
            return TIMED_OUT, "error: operation not permitted\n"
        return TIMED_OUT, f"error: {end.signal}\n" if end.signal in known else ""
    return TIMED_OUT, f"error: {end.reason}\n"

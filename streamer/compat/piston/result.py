"""What became of a program, in the form that Piston gives it."""

from __future__ import annotations

from typing import Final

from streamer.compat.outcome import Outcome, Printed
from streamer.compat.piston.runtimes import Runtime
from streamer.events import CaseEnd, Complete, Error

__all__ = ["answer", "exit_of"]

LENGTH: Final = {
    "stdout": ("OL", "stdout length exceeded"),
    "stderr": ("EL", "stderr length exceeded"),
}
VERDICTS: Final = {
    "cpu_time": ("TO", "Time limit exceeded"),
    "wall_time": ("TO", "Time limit exceeded (wall clock)"),
    "memory": ("SG", "Memory limit exceeded"),
    "disk": ("SG", "Disk limit exceeded"),
    "cancelled": ("XX", "The job was cancelled"),
}


def answer(outcome: Outcome, runtime: Runtime) -> dict[str, object]:
    """Return the body of the answer to ``POST /execute`` for a job that has run."""
    assert isinstance(outcome.end, Complete)
    told: dict[str, object] = {"language": runtime.language, "version": runtime.shown}
    if not runtime.compiled:
        return {"run": _stage(outcome.run, outcome.end), **told}
    if outcome.end.phase == "compile":
        failed = _stage(outcome.compile, outcome.end)
        # As Piston: for clients that only look there.
        return {"compile": failed, "run": failed, **told}
    compiled = {
        **_texts(outcome.compile),
        "code": 0,
        "signal": None,
        "memory": None,
        "message": None,
        "status": None,
        "cpu_time": None,
        "wall_time": outcome.compiled_ms,
    }
    end = outcome.case
    assert not isinstance(end, Error)
    return {"compile": compiled, "run": _stage(outcome.run, end), **told}


def exit_of(end: Complete | CaseEnd) -> tuple[int | None, str | None]:
    """Return exit code and signal as Piston tells them: one of the two is None."""
    if end.reason == "exited":
        return end.exit_code, None
    # As Piston: whatever a limit has ended first, it is told as killed.
    return None, (end.signal if end.reason == "signaled" else None) or "SIGKILL"


def _stage(printed: Printed, end: Complete | CaseEnd) -> dict[str, object]:
    code, signal = exit_of(end)
    status, message = _verdict(printed, end)
    return {
        **_texts(printed),
        "code": code,
        "signal": signal,
        "memory": end.peak_memory_bytes,
        "message": message,
        "status": status,
        "cpu_time": end.cpu_time_ms,
        "wall_time": end.duration_ms,
    }


def _texts(printed: Printed) -> dict[str, str]:
    names = ("stdout", "stderr", "output")
    return {name: getattr(printed, name).decode("utf-8", "replace") for name in names}


def _verdict(printed: Printed, end: Complete | CaseEnd) -> tuple[str | None, str | None]:
    """Return the status, two letters, and the message."""
    if end.reason == "output_limit" or end.output_truncated:
        return LENGTH["stdout" if len(printed.stdout) >= len(printed.stderr) else "stderr"]
    if end.reason == "exited":
        failed = ("RE", f"Exited with error status {end.exit_code}")
        return failed if end.exit_code else (None, None)
    return VERDICTS.get(end.reason, ("SG", f"Caught fatal signal {end.signal}"))

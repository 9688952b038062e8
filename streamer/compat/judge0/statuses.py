"""What becomes of a submission, as one of Judge0's statuses."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from streamer.compat.outcome import Outcome
from streamer.events import CaseEnd, Complete, Error

__all__ = ["NAMES", "NOT_COMPILED", "PROCESSING", "QUEUED", "exit_signal", "message", "status"]

QUEUED: Final = 1
PROCESSING: Final = 2
ACCEPTED: Final = 3
WRONG: Final = 4
TOO_LATE: Final = 5
NOT_COMPILED: Final = 6
NONZERO: Final = 11
OTHER: Final = 12
INTERNAL: Final = 13

NAMES: Final[Mapping[int, str]] = {
    QUEUED: "In Queue",
    PROCESSING: "Processing",
    ACCEPTED: "Accepted",
    WRONG: "Wrong Answer",
    TOO_LATE: "Time Limit Exceeded",
    NOT_COMPILED: "Compilation Error",
    7: "Runtime Error (SIGSEGV)",
    8: "Runtime Error (SIGXFSZ)",
    9: "Runtime Error (SIGFPE)",
    10: "Runtime Error (SIGABRT)",
    NONZERO: "Runtime Error (NZEC)",
    OTHER: "Runtime Error (Other)",
    INTERNAL: "Internal Error",
    14: "Exec Format Error",
}

OF_SIGNAL: Final[Mapping[str | None, int]] = {
    "SIGSEGV": 7,
    "SIGXFSZ": 8,
    "SIGFPE": 9,
    "SIGABRT": 10,
}
OF_REASON: Final[Mapping[str, tuple[int, str]]] = {
    "wall_time": (TOO_LATE, "Time limit exceeded (wall clock)"),
    "cpu_time": (TOO_LATE, "Time limit exceeded"),
    "memory": (OTHER, "Memory limit exceeded"),
    # There its output is a file, whose size has a limit.
    "output_limit": (8, "Output limit exceeded"),
    "disk": (8, "Disk limit exceeded"),
    "cancelled": (INTERNAL, "The submission was cancelled"),
}


def status(outcome: Outcome, *, right: bool) -> int:
    """Return the id of a submission's status; `right` tells whether its output is as expected."""
    end = outcome.end
    if isinstance(end, Error):
        return INTERNAL
    if end.phase == "compile" and end.reason != "cancelled":
        return NOT_COMPILED
    case = outcome.case
    assert not isinstance(case, Error)
    if case.reason in OF_REASON:
        return OF_REASON[case.reason][0]
    if case.reason == "signaled":
        return OF_SIGNAL.get(case.signal, OTHER)
    if case.exit_code:
        return NONZERO
    return ACCEPTED if right else WRONG


def message(outcome: Outcome) -> str | None:
    """Return what is told besides the status of a submission that is over."""
    end = outcome.end
    if isinstance(end, Error):
        return end.message
    case = outcome.case
    assert not isinstance(case, Error)
    if case.reason in OF_REASON:
        return None if _not_compiled(end) else OF_REASON[case.reason][1]
    number = exit_signal(case)
    if number is not None:
        return f"Caught fatal signal {number}"
    return f"Exited with error status {case.exit_code}" if case.exit_code else None


def exit_signal(case: Complete | CaseEnd) -> int | None:
    """Return the number of the signal that ended a program, if it was one."""
    if case.reason != "signaled" or case.signal is None:
        return None
    known = getattr(signal, case.signal, None)
    return None if known is None else int(known)


def _not_compiled(end: Complete) -> bool:
    return end.phase == "compile" and end.reason != "cancelled"

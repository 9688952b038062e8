"""Decide the verdict of a job, from how its programs ended and why it was stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from streamer.model.events import ArtifactFailure, CaseEnd, Complete, PhaseName, Reason
from streamer.model.signals import signal_name
from streamer.sandbox.shape import RunEnd

__all__ = ["JobEnd", "Outcome", "StopReason", "reason_of"]

StopReason = Literal["cancelled", "wall_time", "output_limit", "shutting_down", "lost"]
"""Why the service stops a job."""

Outcome = StopReason | Reason
"""Why a program ended."""


def reason_of(end: RunEnd, stopped: StopReason | None, *, over_output: bool) -> Outcome:
    """Return why a program ended: by itself, at a limit of the process tree, or by a stop.

    `stopped` is the reason of a stop before its end; later ones have no effect. The output that
    makes it `over_output` may be read later, since it was written before.
    """
    if end.cause is not None and end.cause != "killed":
        return end.cause
    if stopped is not None:
        return stopped
    if over_output:
        return "output_limit"
    return "signaled" if os.WIFSIGNALED(end.status) else "exited"


@dataclass(slots=True)
class JobEnd:
    """The sum of the ends of a job's programs, or the end of that of a case."""

    phase: PhaseName
    status: int | None = None
    """The wait status of the last program; None if none has run."""
    wall_us: int = 0
    cpu_us: int = 0
    peak_bytes: int = 0
    measured: bool = True

    def add(self, end: RunEnd, phase: PhaseName) -> None:
        self.phase = phase
        self.status = end.status
        self.wall_us += end.wall_us
        self.measured = self.measured and end.cpu_time_us is not None
        self.cpu_us += end.cpu_time_us or 0
        self.peak_bytes = max(self.peak_bytes, end.peak_memory_bytes or 0)

    def complete(
        self,
        reason: Reason,
        *,
        sandbox: str,
        output_bytes: int,
        output_truncated: bool,
        cached: bool = False,
        cases: tuple[CaseEnd, ...] | None = None,
        artifacts_failed: tuple[ArtifactFailure, ...] = (),
        attempts: int = 1,
    ) -> Complete:
        return Complete(
            **self._told(reason),
            output_bytes=output_bytes,
            output_truncated=output_truncated,
            sandbox=sandbox,
            phase=self.phase,
            cached=cached,
            cases=cases,
            artifacts_failed=artifacts_failed,
            attempts=attempts,
        )

    def of_case(
        self,
        reason: Reason,
        *,
        index: int,
        name: str | None,
        output_bytes: int,
        output_truncated: bool,
        t: int,
    ) -> CaseEnd:
        return CaseEnd(
            **self._told(reason),
            index=index,
            name=name,
            output_bytes=output_bytes,
            output_truncated=output_truncated,
            t=t,
        )

    def _told(self, reason: Reason) -> dict[str, Any]:
        status = self.status
        return {
            "reason": reason,
            "exit_code": None
            if status is None or os.WIFSIGNALED(status)
            else os.WEXITSTATUS(status),
            "signal": _signal_name(status),
            "duration_ms": self.wall_us // 1000,
            "cpu_time_ms": self.cpu_us // 1000 if self.measured else None,
            "peak_memory_bytes": self.peak_bytes if self.measured else None,
            "timed_out": reason in ("wall_time", "cpu_time"),
            "oom_killed": reason == "memory",
        }


def _signal_name(status: int | None) -> str | None:
    if status is None or not os.WIFSIGNALED(status):
        return None
    return signal_name(os.WTERMSIG(status))

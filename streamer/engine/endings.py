"""How jobs end that no worker has ended."""

from __future__ import annotations

from typing import Final

from streamer.model.events import Complete, Error
from streamer.model.job import JobFacts

__all__ = ["SHUT_DOWN", "WORKER_LOST", "cancelled"]

WORKER_LOST: Final = Error("worker_lost", "the worker that ran the job is gone")
SHUT_DOWN: Final = Error("shutting_down", "the service stopped before the job was over")


def cancelled(job: JobFacts, attempt: int = 1) -> Complete:
    """Return the end of a job that was cancelled before any worker had it, in this attempt."""
    return Complete(
        reason="cancelled",
        exit_code=None,
        signal=None,
        duration_ms=0,
        cpu_time_ms=0,
        peak_memory_bytes=None,
        timed_out=False,
        oom_killed=False,
        output_bytes=0,
        output_truncated=False,
        sandbox=job.backend,
        phase="run",
        attempts=attempt,
    )

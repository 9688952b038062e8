"""Define what an engine shows of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamer.model.events import JobEvent
from streamer.model.job import JobFacts
from streamer.model.webhook import WebhookView

__all__ = ["JobState", "JobView"]

JobState = Literal["queued", "preparing", "compiling", "running", "complete", "error"]
"""The state of a job; the last two are final, and named like the terminal events."""


@dataclass(frozen=True, slots=True)
class JobView:
    """A snapshot of one job. Times are seconds since the epoch (`time.time`).

    It has no files, variables and input, which may be megabytes. `position` in the queue counts
    from 1, and `estimated_wait_s` is how long the job still waits, perhaps; both are None in lists,
    and for a job that does not wait. `webhook` is None in lists too.
    """

    job: JobFacts
    tenant: str
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    result: JobEvent | None
    first_output_at: float | None = None
    position: int | None = None
    estimated_wait_s: float | None = None
    webhook: WebhookView | None = None

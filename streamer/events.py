"""The events of a job, for hosts and plugins: what `Job.events` yields and a result is."""

from __future__ import annotations

from streamer.model.events import (
    AnyEvent,
    Artifact,
    ArtifactFailure,
    CaseEnd,
    Complete,
    Error,
    Event,
    Gap,
    JobEvent,
    Output,
    Stats,
    Status,
    Truncated,
)

__all__ = [
    "AnyEvent",
    "Artifact",
    "ArtifactFailure",
    "CaseEnd",
    "Complete",
    "Error",
    "Event",
    "Gap",
    "JobEvent",
    "Output",
    "Stats",
    "Status",
    "Truncated",
]

"""Run jobs without HTTP, and look at what they leave: what `streamer.testing` ships."""

from __future__ import annotations

from streamer.testing.processes import (
    adopt_orphans,
    descendants,
    descriptors,
    kept_besides,
    reap_adopted,
)
from streamer.testing.running import Ran, ended, program, run_job, script

__all__ = [
    "Ran",
    "adopt_orphans",
    "descendants",
    "descriptors",
    "ended",
    "kept_besides",
    "program",
    "reap_adopted",
    "run_job",
    "script",
]

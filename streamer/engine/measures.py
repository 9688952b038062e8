"""Measure finished jobs: how they ended, and how long they waited and ran."""

from __future__ import annotations

import bisect
from collections import Counter
from typing import Final

from streamer.engine.interface import JobView
from streamer.model.events import Complete, Error

__all__ = ["BOUNDS_S", "Histogram", "JobMeasures"]

BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)


class Histogram:
    """Counts of durations by their upper bounds (`BOUNDS_S`, in seconds), and their sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        """For each bound those up to it and above the previous one; last, those above them all."""
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration; 0 if it is negative, since the wall clock may have been set back."""
        seconds = max(seconds, 0.0)
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class JobMeasures:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        """The number of jobs by reason or error code."""
        self.wait = Histogram()
        """From a job's acceptance to a worker."""
        self.run = Histogram()
        """From the worker to the job's end."""
        self.first_output = Histogram()
        """From its acceptance to its first output."""

    def finished(self, view: JobView) -> None:
        """Count a job that is over, whether it has run or not."""
        if isinstance(view.result, Complete):
            self.outcomes[view.result.reason] += 1
        elif isinstance(view.result, Error):
            self.outcomes[view.result.code] += 1
        if view.started_at is not None:
            self.wait.observe(view.started_at - view.created_at)
            if view.finished_at is not None:
                self.run.observe(view.finished_at - view.started_at)
        if view.first_output_at is not None:
            self.first_output.observe(view.first_output_at - view.created_at)

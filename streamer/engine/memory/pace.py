"""Estimate how long jobs wait, from how long the last ones ran."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

__all__ = ["Pace"]

RUNS: Final = 64
"""The mean is over so many runs: enough to be calm, few enough to follow a change."""


class Pace:
    """How fast a queue moves that is served by a number of places."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._runs: deque[float] = deque(maxlen=RUNS)

    def ran(self, seconds: float) -> None:
        """Take note of how long a job had its place."""
        self._runs.append(seconds)

    def wait_s(self, jobs: int, running: Collection[float]) -> float:
        """Return how long it takes until so many jobs have got a place, beside `running`.

        Those are the ages of the jobs that run. No job waits while there is a free place.
        """
        if len(running) < self._places:
            return 0.0
        # Jobs that have run for longer than the last ones did are news.
        mean_s = max(_mean(self._runs), _mean(running))
        return jobs * mean_s / self._places


def _mean(seconds: Collection[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 0.0

"""Estimate how long jobs wait, from the duration of the last ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

__all__ = ["Pace"]

RUNS: Final = 64
"""The number of runs in the mean: enough to be stable, few enough to follow changes."""


class Pace:
    """How fast a queue with a number of places moves."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._runs: deque[float] = deque(maxlen=RUNS)

    def ran(self, seconds: float) -> None:
        """Record how long a job had its place."""
        self._runs.append(seconds)

    def wait_s(self, jobs: int, running: Collection[float]) -> float:
        """Return how long it takes until this many jobs have got a place.

        `running` are the ages of the running jobs. No job waits while a place is free.
        """
        if len(running) < self._places:
            return 0.0
        # Running jobs that are older than the mean show that it is too low.
        mean_s = max(_mean(self._runs), _mean(running))
        return jobs * mean_s / self._places


def _mean(seconds: Collection[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 0.0

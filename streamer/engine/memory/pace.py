"""Estimate how long jobs wait, from the duration of the last ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

__all__ = ["Forecast", "Pace"]

RUNS: Final = 64
"""The number of runs in the mean: enough to be stable, few enough to follow changes."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known at one moment: how long a job runs, and whether all places are taken."""

    run_s: float
    places: int
    busy: bool

    def wait_s(self, jobs: int) -> float:
        """Return how long it takes until this many jobs have got a place.

        No job waits while a place is free, unless its tenant has all that it may have.
        """
        return jobs * self.run_s / self.places if self.busy else 0.0

    def own_wait_s(self, jobs: int, most: int) -> float:
        """Return how long it takes until so many jobs of a tenant are over, of which `most` run."""
        return max(jobs, 0) * self.run_s / min(most, self.places)


class Pace:
    """How fast a queue with a number of places moves."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._runs: deque[float] = deque(maxlen=RUNS)

    def ran(self, seconds: float) -> None:
        """Record how long a job had its place."""
        self._runs.append(seconds)

    def forecast(self, running: Collection[float]) -> Forecast:
        """Return what can be told now; `running` are the ages of the running jobs."""
        # Running jobs that are older than the mean show that it is too low.
        mean_s = max(_mean(self._runs), _mean(running))
        return Forecast(mean_s, self._places, busy=len(running) >= self._places)


def _mean(seconds: Collection[float]) -> float:
    return sum(seconds) / len(seconds) if seconds else 0.0

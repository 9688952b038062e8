"""Where waiting jobs are in the queue, and how long they wait there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from streamer.engine.interface import WaitingJob
from streamer.engine.memory.fairqueue import FairQueue
from streamer.engine.memory.pace import Forecast, Pace

__all__ = ["Waits"]


class Waits:
    """`running_of` is the number of running jobs by tenant, `ages` returns how long each has run.

    What is estimated of a tenant takes into account how many of its jobs may run.
    """

    def __init__(
        self,
        queue: FairQueue,
        pace: Pace,
        running_of: Mapping[str, int],
        ages: Callable[[], Collection[float]],
    ) -> None:
        self._queue = queue
        self._pace = pace
        self._running_of = running_of
        self._ages = ages
        self.most_running: Callable[[str], int | None] = lambda _: None
        """Returns how many jobs of a tenant may run."""

    def forecast(self) -> Forecast:
        return self._pace.forecast(self._ages())

    def wait_s(self, jobs: int) -> float:
        """Estimate how long it takes until this many waiting jobs have got a place."""
        return self.forecast().wait_s(jobs)

    def of_new_s(self, tenant: str) -> float:
        """Estimate how long a job of a tenant would wait that comes now."""
        ahead = self._queue.ahead_of_new(tenant)
        return self.of_place_s(self.forecast(), tenant, ahead, self._queue.place(tenant, ahead))

    def of_job(self, tenant: str, job_id: str) -> WaitingJob:
        return self._of(tenant, job_id, self._queue.ahead(tenant, job_id), self.forecast())

    def first_of(self, tenant: str, most: int) -> Sequence[WaitingJob]:
        """Return the next waiting jobs of a tenant."""
        first, forecast = self._queue.first_of(tenant, most), self.forecast()
        return [self._of(tenant, job_id, ahead, forecast) for ahead, job_id in enumerate(first)]

    def _of(self, tenant: str, job_id: str, ahead: int, forecast: Forecast) -> WaitingJob:
        place = self._queue.place(tenant, ahead)
        return WaitingJob(job_id, place, self.of_place_s(forecast, tenant, ahead, place))

    def of_place_s(self, forecast: Forecast, tenant: str, ahead: int, place: int) -> float:
        """Estimate how long a job waits that has so many of its tenant's before it."""
        wait_s, most = forecast.wait_s(place), self.most_running(tenant)
        if most is None:
            return wait_s
        over = self._running_of.get(tenant, 0) + ahead + 1 - most
        return max(wait_s, forecast.own_wait_s(over, most))

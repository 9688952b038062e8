"""Tell waiting jobs their places, and how long they wait, as these change."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Final

from streamer.engine.memory.jobtable import JobTable
from streamer.engine.memory.pace import Forecast

__all__ = ["Places"]

MAX_TOLD: Final = 100
"""The most such events of one job, so that they do not fill a waiting job's log."""

LEAST_MS: Final = 1000
"""A wait is told again once it has doubled or halved, and changed by more than this."""

NEXT: Final = 150
"""How many jobs are looked at each time: those that are next."""

OTHERS: Final = 500
"""How many of the others each time, in turns: of thousands it would hold up all else."""


class Places:
    def __init__(self, table: JobTable) -> None:
        self._table = table
        self._others: deque[tuple[int, tuple[str, int]]] = deque()
        """Those that have not had their turn, with their places when it was the first one's."""

    def tell(self) -> None:
        """Append events to the logs of those whose place or wait has changed enough."""
        forecast = self._table.waits.forecast()
        order = enumerate(self._table.queue.in_order(), 1)
        for place, (job_id, ahead) in itertools.islice(order, NEXT):
            self._tell_if_far(forecast, job_id, ahead, place)
        if not self._others:
            self._others.extend(order)
        for _ in range(min(len(self._others), OTHERS)):
            place, (job_id, ahead) = self._others.popleft()
            self._tell_if_far(forecast, job_id, ahead, place)

    def _tell_if_far(self, forecast: Forecast, job_id: str, ahead: int, place: int) -> None:
        record = self._table.find(job_id)
        if record is None or not record.waiting or record.places_told >= MAX_TOLD:
            return
        wait_ms = int(self._table.waits.of_place_s(forecast, record.tenant, ahead, place) * 1000)
        # A tenth: position 10 gets an event for each step, position 1000 for every hundredth.
        far = abs(place - record.place) * 10 >= max(place, record.place)
        if far or abs(wait_ms - record.wait_ms) > min(wait_ms, record.wait_ms) + LEAST_MS:
            self._table.tell_place(record, place, wait_ms)

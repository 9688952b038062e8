"""Refuse jobs that do not fit into the queue, by number and weight, in total and by client."""

from __future__ import annotations

from collections.abc import Callable

from streamer.engine.limits import QueueCounts, QueueLimits
from streamer.engine.memory.fairqueue import FairQueue

__all__ = ["Admission"]


class Admission:
    """The limits of one queue. `wait_s(n)` estimates how long `n` jobs take to leave it."""

    def __init__(
        self, limits: QueueLimits, queue: FairQueue, wait_s: Callable[[int], float]
    ) -> None:
        self._limits = limits
        self._queue = queue
        self._wait_s = wait_s

    def check(self, tenant: str, weight: int) -> None:
        """Raise `Busy` or `TooLarge` unless one more job fits."""
        self._limits.check(self._counts(tenant), weight, tenant)

    def check_weight(self, tenant: str, weight: int) -> None:
        """Raise `Busy` or `TooLarge` unless a tenant's waiting jobs may weigh this much more."""
        self._limits.check_weight(self._counts(tenant), weight, tenant)

    def _counts(self, tenant: str) -> QueueCounts:
        queue = self._queue
        own, own_weight = queue.count(tenant), queue.weight_of(tenant)
        return QueueCounts(len(queue), own, queue.weight, own_weight, self._wait_s)

"""Refuse jobs that do not fit into the queue, by number and weight, in total and by client."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamer.engine.memory.fairqueue import FairQueue
from streamer.errors import Busy, RateLimited, TooLarge
from streamer.model.job import MIB

__all__ = ["Admission", "QueueLimits"]

MAX_RETRY_AFTER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The most jobs that run and wait, and the most that the waiting ones weigh.

    A client is a tenant; None means no limit for one client.
    """

    places: int = 4
    max_waiting: int = 1000
    max_waiting_bytes: int = 256 * MIB
    max_waiting_per_client: int | None = None
    max_waiting_bytes_per_client: int | None = None
    max_running_per_client: int | None = None


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
        limits = self._limits
        waiting, own = len(self._queue), self._queue.count(tenant)
        if waiting >= limits.max_waiting:
            raise self._full(f"the queue is full: {waiting} jobs wait")
        if limits.max_waiting_per_client is not None and own >= limits.max_waiting_per_client:
            raise self._share_taken(
                f"you have {own} jobs waiting, which is the most for one client", tenant
            )
        self.check_weight(tenant, weight)

    def check_weight(self, tenant: str, weight: int) -> None:
        """Raise `Busy` or `TooLarge` unless a tenant's waiting jobs may weigh this much more."""
        limits = self._limits
        share = limits.max_waiting_bytes_per_client or limits.max_waiting_bytes
        most = min(share, limits.max_waiting_bytes)
        if weight > most:
            raise TooLarge(
                f"the job takes {weight} bytes of memory, and all waiting jobs together may take "
                f"{most} (queue.max_waiting_bytes): send fewer files, arguments or less input"
            )
        if self._queue.weight + weight > limits.max_waiting_bytes:
            raise self._full("the queue is full: the waiting jobs use all of its memory")
        if self._queue.weight_of(tenant) + weight > share:
            raise self._share_taken(
                "your waiting jobs use all the memory of the queue for one client", tenant
            )

    def _full(self, what: str) -> Busy:
        return Busy(f"{what}; try again later", retry_after_s=self._retry_after_s(1))

    def _share_taken(self, what: str, tenant: str) -> RateLimited:
        # At worst the tenant's turn comes after one of each other tenant.
        turns = len(self._queue) - self._queue.count(tenant) + 1
        return RateLimited(
            f"{what}; try again later",
            retry_after_s=self._retry_after_s(turns),
        )

    def _retry_after_s(self, jobs: int) -> float:
        return min(max(math.ceil(self._wait_s(jobs)), 1), MAX_RETRY_AFTER_S)

"""The limits of the queue, of blobs and of sessions, and how they refuse what does not fit.

A client is a tenant; None means no limit for one client. A tenant may have limits of its own, which
take the place of those for one client. What is refused names the key of the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer.errors import Busy, RateLimited, TooLarge
from streamer.model.job import MIB

__all__ = [
    "MOST_SHOWN",
    "BlobCounts",
    "BlobLimits",
    "QueueCounts",
    "QueueLimits",
    "SessionLimits",
    "TenantLimits",
    "WebhookLimits",
]

MAX_RETRY_AFTER_S: Final = 60.0

MOST_SHOWN: Final = 10
"""How many of a tenant's waiting jobs are shown with the queue."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """The limits of one tenant; None means the limit for one client."""

    running: int | None = None
    waiting: int | None = None
    waiting_bytes: int | None = None
    sessions: int | None = None
    blobs: int | None = None
    blob_bytes: int | None = None


Tenants = Mapping[str, TenantLimits]
"""The tenants that have limits of their own."""

NO_OWN: Final = TenantLimits()


def _own(tenants: Tenants, tenant: str | None) -> TenantLimits:
    """Return the limits of a tenant's own; of no tenant in particular there are none."""
    return NO_OWN if tenant is None else tenants.get(tenant, NO_OWN)


def _limit(own: int | None, of_one: int | None, key: str, own_key: str) -> tuple[int | None, str]:
    """Return a limit and its key."""
    return (of_one, key) if own is None else (own, f"{own_key} in auth.tenants")


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many jobs wait, and how many of one client, and what they weigh.

    `wait_s(n)` estimates how long `n` jobs take to leave the queue.
    """

    waiting: int
    own: int
    weight: int
    own_weight: int
    wait_s: Callable[[int], float]


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The most jobs that run and wait, and the most that the waiting ones weigh."""

    places: int = 4
    max_waiting: int = 1000
    max_waiting_bytes: int = 256 * MIB
    max_waiting_per_client: int | None = None
    max_waiting_bytes_per_client: int | None = None
    max_running_per_client: int | None = None
    by_places: bool = False
    """Whether `max_running_per_client` is the places but one, of one process."""
    tenants: Tenants = field(default_factory=dict)

    def leaves_place(self, tenant: str | None) -> bool:
        """Return whether a tenant may have all places but one, wherever they are."""
        return self.by_places and _own(self.tenants, tenant).running is None

    def running_of(self, tenant: str | None) -> int | None:
        """Return how many jobs of a tenant may run."""
        own = _own(self.tenants, tenant).running
        return self.max_running_per_client if own is None else own

    def waiting_of(self, tenant: str | None) -> tuple[int | None, str]:
        """Return how many jobs of a tenant may wait, and the key."""
        own = _own(self.tenants, tenant).waiting
        return _limit(own, self.max_waiting_per_client, "queue.max_per_client", "max_waiting")

    def waiting_bytes_of(self, tenant: str | None) -> tuple[int | None, str]:
        """Return how much they may weigh, and the key."""
        own, key = _own(self.tenants, tenant).waiting_bytes, "max_waiting_bytes"
        return _limit(own, self.max_waiting_bytes_per_client, f"queue.{key}", key)

    def check(self, counts: QueueCounts, weight: int, tenant: str) -> None:
        """Raise `Busy` or `TooLarge` unless one more job of a tenant fits."""
        if counts.waiting >= self.max_waiting:
            raise _full(f"the queue is full: {counts.waiting} jobs wait", counts)
        most, key = self.waiting_of(tenant)
        if most is not None and counts.own >= most:
            raise _share_taken(
                f"you have {counts.own} jobs waiting, which is the most for one client ({key})",
                counts,
            )
        self.check_weight(counts, weight, tenant)

    def check_weight(self, counts: QueueCounts, weight: int, tenant: str) -> None:
        """Raise `Busy` or `TooLarge` unless a tenant's waiting jobs may weigh this much more."""
        own, key = self.waiting_bytes_of(tenant)
        share = self.max_waiting_bytes if own is None else own
        most = min(share, self.max_waiting_bytes)
        if weight > most:
            raise TooLarge(
                f"the job takes {weight} bytes of memory, and all waiting jobs together may take "
                f"{most} ({key}): send fewer files, arguments or less input"
            )
        if counts.weight + weight > self.max_waiting_bytes:
            raise _full("the queue is full: the waiting jobs use all of its memory", counts)
        if counts.own_weight + weight > share:
            raise _share_taken(
                f"your waiting jobs use all the memory of the queue for one client ({key})", counts
            )


def _full(what: str, counts: QueueCounts) -> Busy:
    return Busy(f"{what}; try again later", retry_after_s=_retry_after_s(counts.wait_s(1)))


def _share_taken(what: str, counts: QueueCounts) -> RateLimited:
    # At worst the tenant's turn comes after one of each other tenant.
    turns = counts.waiting - counts.own + 1
    return RateLimited(
        f"{what}; try again later", retry_after_s=_retry_after_s(counts.wait_s(turns))
    )


def _retry_after_s(wait_s: float) -> float:
    return min(max(math.ceil(wait_s), 1), MAX_RETRY_AFTER_S)


@dataclass(frozen=True, slots=True)
class BlobCounts:
    """How many blobs one client has, and all have, and the disk space of these."""

    own: int
    every: int
    own_bytes: int
    every_bytes: int


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """The most that all blobs take on disk together, those of one tenant, and how many they are.

    `number_of_one` is how many one tenant may have.
    """

    total: int
    tenant: int | None = None
    number: int = 100_000
    number_of_one: int | None = None
    tenants: Tenants = field(default_factory=dict)

    def number_of(self, tenant: str | None) -> tuple[int | None, str]:
        """Return how many a tenant may have, and the key."""
        own, key = _own(self.tenants, tenant).blobs, "max_blobs"
        return _limit(own, self.number_of_one, f"engine.{key}", key)

    def bytes_of(self, tenant: str | None) -> tuple[int | None, str]:
        """Return how much they may take on disk, and the key."""
        own = _own(self.tenants, tenant).blob_bytes
        return _limit(own, self.tenant, "engine.blob_bytes_per_client", "blob_bytes")

    def refusal(self, counts: BlobCounts, number: int, size: int, tenant: str) -> Busy | None:
        """Return the error if so many more of a tenant, of so many bytes, do not fit."""
        most, key = self.number_of(tenant)
        if most is not None and counts.own + number > most:
            return RateLimited(f"you have too many stored files ({key}); delete something, or wait")
        if counts.every + number > self.number:
            return Busy("too many files are stored; try again later", code="storage_full")
        most_bytes, key = self.bytes_of(tenant)
        if most_bytes is not None and counts.own_bytes + size > most_bytes:
            return RateLimited(
                f"your share of the disk is used up ({key}); delete something, or wait"
            )
        if counts.every_bytes + size > self.total:
            return Busy("the disk space for files is used up; try again", code="storage_full")
        return None


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The most sessions, in total and of one tenant.

    Of ended ones `ended` are remembered, for `ended_s` seconds at most; where there are more it is
    one of the tenant's with the most that is forgotten.
    """

    total: int = 0
    tenant: int | None = None
    ended: int = 1000
    ended_s: float = 600.0
    tenants: Tenants = field(default_factory=dict)

    def of(self, tenant: str | None) -> tuple[int | None, str]:
        """Return how many a tenant may have, and the key."""
        own = _own(self.tenants, tenant).sessions
        return _limit(own, self.tenant, "sessions.max_per_client", "max_sessions")

    def share_taken(self, own: int, tenant: str) -> RateLimited:
        _, key = self.of(tenant)
        return RateLimited(
            f"you have {own} sessions, which is the most for one client ({key}): end one"
        )

    def full(self, number: int) -> Busy:
        return Busy(
            f"{number} sessions are open, which is the most (sessions.max)",
            retry_after_s=10.0,
        )


@dataclass(frozen=True, slots=True)
class WebhookLimits:
    """The most webhooks that wait for the end of a job or for their delivery, and their bytes.

    `pending_of_one` is for one tenant. At a time `at_once_of_place` are claimed of those to one
    place, and `at_once_of_one` of one tenant's; who claims one has it for `lease_s` seconds.
    """

    pending: int = 0
    pending_bytes: int = 0
    pending_of_one: int | None = None
    at_once_of_place: int = 4
    at_once_of_one: int | None = None
    lease_s: float = 30.0

    def check(self, pending: int, own: int, pending_bytes: int, size: int) -> None:
        """Raise `Busy` unless one more, of this size, fits to so many."""
        if self.pending_of_one is not None and own >= self.pending_of_one:
            raise RateLimited(
                f"{own} of your webhooks wait for their delivery, which is the most for one client",
                retry_after_s=10.0,
            )
        if pending >= self.pending or pending_bytes + size > self.pending_bytes:
            raise Busy(
                "too many webhooks wait for their delivery (webhooks.max_pending, "
                "max_pending_bytes)",
                retry_after_s=10.0,
            )

"""What the Redis engine needs of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamer.engine.limits import (
    BlobLimits,
    QueueCounts,
    QueueLimits,
    SessionLimits,
    WebhookLimits,
)
from streamer.errors import Busy, StreamerError

__all__ = ["RedisLimits"]

NO_WEBHOOKS: Final = WebhookLimits()
WRITER_S: Final = 3600.0
"""What a writer of a blob has left is deleted so long after its last piece."""

GARBAGE_S: Final = 60.0
"""A node that was told to delete bytes has so long, before another is told."""

ALL_BUT_ONE: Final = 0
"""As many running jobs as all workers have places, but one: only the server knows all of them."""


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Sizes in bytes: `kept_bytes` is for all logs and records together, `log_bytes` for one log.

    Records are kept for `retention_s` seconds, keys for `idempotency_s`. Every `places_s` seconds
    at most waiting jobs are told their new places. A lease ends `lease_s` seconds after its last
    heartbeat.
    """

    queue: QueueLimits
    kept_bytes: int
    log_bytes: int
    blobs: BlobLimits
    sessions: SessionLimits
    retention_s: float = 600.0
    idempotency_s: float = 0.0
    max_idempotency_keys: int = 100_000
    lease_s: float = 15.0
    places_s: float = 0.25
    webhooks: WebhookLimits = NO_WEBHOOKS

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have limits of their own."""
        return frozenset((*self.queue.tenants, *self.blobs.tenants, *self.sessions.tenants))

    def of_script(self, tenant: str | None = None) -> Mapping[str, object]:
        """Return them by the names that the script has for them; those of a tenant with its own."""
        leaves_place = self.queue.leaves_place(tenant)
        return {
            "own": tenant is not None,
            "places": self.queue.places,
            "max_waiting": self.queue.max_waiting,
            "max_bytes": self.queue.max_waiting_bytes,
            "waiting_of_one": self.queue.waiting_of(tenant)[0],
            "bytes_of_one": self.queue.waiting_bytes_of(tenant)[0],
            "running_of_one": ALL_BUT_ONE if leaves_place else self.queue.running_of(tenant),
            "kept_bytes": self.kept_bytes,
            "log_bytes": self.log_bytes,
            "keep_s": self.retention_s,
            "key_s": self.idempotency_s,
            "keys": self.max_idempotency_keys,
            "lease_s": self.lease_s,
            "writer_s": WRITER_S,
            "garbage_s": GARBAGE_S,
            "blobs": self.blobs.number,
            "blobs_of_one": self.blobs.number_of(tenant)[0],
            "blob_bytes": self.blobs.total,
            "blob_bytes_of_one": self.blobs.bytes_of(tenant)[0],
            "sessions": self.sessions.total,
            "sessions_of_one": self.sessions.of(tenant)[0],
            "ended_sessions": self.sessions.ended,
            "ended_s": self.sessions.ended_s,
            "hooks": self.webhooks.pending,
            "hook_bytes": self.webhooks.pending_bytes,
            "hooks_of_one": self.webhooks.pending_of_one,
            "hooks_of_place": self.webhooks.at_once_of_place,
            "hooks_at_once_of_one": self.webhooks.at_once_of_one,
            "hook_lease_s": self.webhooks.lease_s,
        }

    def check_webhooks(self, counts: Sequence[bytes | int], size: int) -> None:
        """Raise why the script has refused a job with a webhook."""
        pending, own, pending_bytes = map(int, counts)
        self.webhooks.check(pending, own, pending_bytes, size)
        raise StreamerError("a webhook was refused that fits")

    def check_queue(
        self, counts: Sequence[bytes | int], weight: int, tenant: str, *, job: bool
    ) -> None:
        """Raise why the script has refused a tenant's job, or input for one that waits."""
        waiting, own, weighs, own_weighs = map(int, counts[:4])
        of_one_s = float(counts[4])
        known = QueueCounts(waiting, own, weighs, own_weighs, lambda jobs: jobs * of_one_s)
        check = self.queue.check if job else self.queue.check_weight
        check(known, weight, tenant)
        # By its own limits, which another service has set, or there is room by now.
        raise Busy("the queue is full; try again later")

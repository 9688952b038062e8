"""Define the webhooks of an engine: to whom the end of a job is told, until it is told.

What holds for every engine, and is tested for each by ``tests/engine/test_webhooks.py``:

- A job with a webhook has a place for it from its submission on, so its end is never refused one.
- The delivery begins to exist in the step that ends the job, however it ends.
- Who claims a delivery has it for the time of a lease. If nothing is told of it until then, it is
  claimed again, so each attempt may be made twice, and none is lost with its process.
- Where nobody delivers any more, who does not either may claim all that is due, to end it.
- Of those to one place, and of those of one tenant, only so many are claimed at a time. Tenants
  take turns, and of each its places: who does not answer delays nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streamer.engine.views import JobView
from streamer.model.webhook import Webhook

__all__ = [
    "MOST_RESULT_BYTES",
    "Delivery",
    "Due",
    "Webhooks",
    "line_of",
]

MOST_RESULT_BYTES: Final = 4096
"""A larger result is not kept for the delivery: the job itself has it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An attempt that its holder may make now: the job at its end, and where that is told.

    The result of the job may be missing in its view.
    """

    job: JobView
    url: str
    attempt: int
    token: str


@dataclass(frozen=True, slots=True)
class Due:
    """The deliveries that were claimed, and in how many seconds the next is due, if any is."""

    deliveries: Sequence[Delivery]
    next_s: float | None


class Webhooks(Protocol):
    @property
    def bell(self) -> asyncio.Event:
        """Set when there may be something to claim."""

    async def claim(self, free: int, *, abandoned_s: float | None = None) -> Due:
        """Claim at most `free` deliveries that are due, without waiting for any.

        With `abandoned_s` it is no attempt: only if nobody has claimed otherwise for so many
        seconds, or since this was first asked.
        """

    async def delivered(self, delivery: Delivery) -> None:
        """End a delivery. Without effect if it was claimed again meanwhile, as is `failed`."""

    async def failed(self, delivery: Delivery, error: str, pause_s: float | None) -> None:
        """Let it be tried again after a pause; None: no more."""


def line_of(tenant_hash: str, webhook: Webhook) -> str:
    """Return what stands for all webhooks of a tenant to one place."""
    return hashlib.sha256(f"{tenant_hash}\n{webhook.place}".encode()).hexdigest()[:32]

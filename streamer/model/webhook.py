"""Define webhooks: to whom the end of a job is told, and what has become of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Webhook", "WebhookState", "WebhookView"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """To whom the end of a job is told: a request to `url`, if it ends with one of `events`.

    `place` is its host and port, which the service fills in.
    """

    url: str
    events: tuple[Literal["complete", "error"], ...] = ("complete", "error")
    place: str = ""


WebhookState = Literal["waiting", "pending", "delivered", "failed", "unwanted"]
"""``waiting``: the job is not over; ``unwanted``: it ended with an event that was not asked for."""


@dataclass(frozen=True, slots=True)
class WebhookView:
    """What has become of a job's webhook. `next_at` is seconds since the epoch (`time.time`)."""

    state: WebhookState
    attempts: int = 0
    last_error: str | None = None
    next_at: float | None = None

"""The webhooks of all nodes, in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.wire import view_of
from streamer.engine.webhooks import MOST_RESULT_BYTES, Delivery, Due, line_of
from streamer.model.webhook import Webhook, WebhookState, WebhookView

__all__ = ["RedisWebhooks", "webhook_view", "webhook_words"]


class RedisWebhooks:
    """See `streamer.engine.webhooks.Webhooks`."""

    def __init__(self, scripts: Scripts, node: str) -> None:
        self._scripts = scripts
        self._node = node
        self.bell = asyncio.Event()

    async def claim(self, free: int, *, abandoned_s: float | None = None) -> Due:
        abandoned = "" if abandoned_s is None else repr(abandoned_s)
        claimed, next_s = await self._scripts.ask("hook_claim", free, self._node, abandoned)
        return Due(
            [_delivery(fields) for fields in claimed], None if next_s is None else float(next_s)
        )

    async def delivered(self, delivery: Delivery) -> None:
        await self._told(delivery, "delivered", "", None)

    async def failed(self, delivery: Delivery, error: str, pause_s: float | None) -> None:
        state: WebhookState = "failed" if pause_s is None else "pending"
        await self._told(delivery, state, error, pause_s)

    async def _told(
        self, delivery: Delivery, state: WebhookState, error: str, pause_s: float | None
    ) -> None:
        pause = "" if pause_s is None else repr(pause_s)
        words = (delivery.job.job.job_id, delivery.token, state, error, pause)
        await self._scripts.call("hook_told", *words)


def webhook_words(webhook: Webhook, tenant_hash: str, size: int) -> tuple[str | int, ...]:
    """Return what a job's record has of its webhook, in the order of the script."""
    events = f" {' '.join(webhook.events)} "
    return webhook.url, line_of(tenant_hash, webhook), events, size, MOST_RESULT_BYTES


def webhook_view(packed: bytes) -> WebhookView:
    """Return what a job's record tells of its webhook."""
    state, attempts, *more = msgspec.msgpack.decode(packed, strict=False)
    error, at = [*more, None, None][:2]
    return WebhookView(
        cast("WebhookState", state), attempts, error or None, None if at is None else float(at)
    )


def _delivery(fields: Sequence[Any]) -> Delivery:
    token, attempts, url, view = fields
    return Delivery(view_of(view), url.decode(), attempts, token.decode())

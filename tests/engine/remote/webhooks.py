"""Webhooks behind the connection: both sides."""

from __future__ import annotations

import asyncio

import msgspec

from streamer.engine.webhooks import Delivery, Due, Webhooks

from .views import SentView
from .wire import Wire


class SentDelivery(msgspec.Struct):
    """An encoded `Delivery`."""

    job: SentView
    url: str
    attempt: int
    token: str

    @classmethod
    def of(cls, delivery: Delivery) -> SentDelivery:
        return cls(SentView.of(delivery.job), delivery.url, delivery.attempt, delivery.token)

    def delivery(self) -> Delivery:
        return Delivery(self.job.view(), self.url, self.attempt, self.token)


class WebhookServer:
    """Each coroutine is one remote call."""

    def __init__(self, webhooks: Webhooks) -> None:
        self.webhooks = webhooks

    async def claim(
        self, free: int, abandoned_s: float | None
    ) -> tuple[list[SentDelivery], float | None]:
        due = await self.webhooks.claim(free, abandoned_s=abandoned_s)
        return [SentDelivery.of(one) for one in due.deliveries], due.next_s

    async def delivered(self, sent: SentDelivery) -> None:
        await self.webhooks.delivered(sent.delivery())

    async def failed(self, sent: SentDelivery, error: str, pause_s: float | None) -> None:
        await self.webhooks.failed(sent.delivery(), error, pause_s)


class RemoteWebhooks:
    """See `streamer.engine.webhooks.Webhooks`."""

    def __init__(self, server: WebhookServer, wire: Wire) -> None:
        self._server = server
        self._wire = wire

    @property
    def bell(self) -> asyncio.Event:
        return self._server.webhooks.bell

    async def claim(self, free: int, *, abandoned_s: float | None = None) -> Due:
        sent, next_s = await self._wire.call(self._server.claim, free, abandoned_s)
        return Due([one.delivery() for one in sent], next_s)

    async def delivered(self, delivery: Delivery) -> None:
        await self._wire.call(self._server.delivered, SentDelivery.of(delivery))

    async def failed(self, delivery: Delivery, error: str, pause_s: float | None) -> None:
        await self._wire.call(self._server.failed, SentDelivery.of(delivery), error, pause_s)

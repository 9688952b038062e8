"""Deliver webhooks: claim what is due, send it, and tell the engine what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from streamer.bounded import ends_in
from streamer.config.webhooks import WebhooksConfig, secret_bytes
from streamer.engine.webhooks import Delivery, Due, Webhooks
from streamer.errors import EngineUnavailable
from streamer.jobs.webhooks.message import body_of, headers_of
from streamer.jobs.webhooks.target import place_of

__all__ = ["Answered", "Deliveries", "Post", "Unreachable"]

log: Final = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often it is looked for what is due, should a message be lost."""
GROWTH: Final = 4.0
"""How much longer each pause is than the one before."""
LAST_S: Final = 3.0
"""How long a process that stops goes on with what is due."""
INTERNAL: Final = "the service is at fault; its log says how"
GONE: Final = 410
"""With this a receiver asks for no more (Standard Webhooks)."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The status of an answer, and after how many seconds it asks to be tried again."""

    status: int
    retry_after_s: float | None = None


class Unreachable(Exception):
    """There was no answer; the message is for the owner of the job."""


Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Answered]]
"""Sends one request to a URL, with these headers and this body. Raises `Unreachable`."""


class Deliveries:
    """The deliveries of one process. Use it as an asynchronous context manager."""

    def __init__(self, config: WebhooksConfig, webhooks: Webhooks, post: Post) -> None:
        self._config = config
        self._webhooks = webhooks
        self._post = post
        self._secrets = [*map(secret_bytes, config.secrets)]
        self._of_tenants = {
            tenant: [*map(secret_bytes, own)] for tenant, own in config.tenant_secrets.items()
        }
        self._attempts: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self.counts: Counter[str] = Counter(delivered=0, retried=0, failed=0)
        """What became of the attempts of this process."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._run(), name="streamer-webhooks")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Go on for a moment with what is due; the rest is left to others, or lost with jobs."""
        self._stopping = True
        self._webhooks.bell.set()
        assert self._loop is not None
        tasks = {self._loop}
        with contextlib.suppress(TimeoutError):
            await ends_in(LAST_S, asyncio.wait(tasks))
        tasks |= self._attempts
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._webhooks.bell.clear()
            due = await self._claimed(self._config.concurrency - len(self._attempts))
            for delivery in due.deliveries:
                task = asyncio.create_task(self._deliver(delivery))
                self._attempts.add(task)
                task.add_done_callback(self._done)
            if due.deliveries:
                continue  # there may be more
            if self._stopping and not self._attempts:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    min(LOOK_S if due.next_s is None else due.next_s, LOOK_S)
                ):
                    await self._webhooks.bell.wait()

    async def _claimed(self, free: int) -> Due:
        try:
            return await self._webhooks.claim(free) if free else Due((), None)
        except EngineUnavailable:
            pass
        except Exception:
            # If this ended, nothing would be delivered any more.
            log.exception("the webhooks that are due cannot be claimed")
        return Due((), None)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._attempts.discard(task)
        self._webhooks.bell.set()

    async def _deliver(self, delivery: Delivery) -> None:
        job_id = delivery.job.job.job_id
        try:
            error, asked_s, last = await self._attempted(delivery)
        except Exception:
            log.exception("the webhook of job %s was not sent", job_id)
            error, asked_s, last = INTERNAL, None, delivery.attempt >= self._config.max_tries
        pause_s = None if last else self._pause_s(delivery.attempt, asked_s)
        if error:
            # The URL may hold a secret; its host does not.
            log.info(
                "the webhook of job %s to %s failed, attempt %d: %s",
                *(job_id, place_of(delivery.url), delivery.attempt, error),
            )
        with contextlib.suppress(EngineUnavailable):  # it is due again when its lease ends
            if error:
                await self._webhooks.failed(delivery, error, pause_s)
                self.counts["failed" if pause_s is None else "retried"] += 1
            else:
                await self._webhooks.delivered(delivery)
                self.counts["delivered"] += 1

    async def _attempted(self, delivery: Delivery) -> tuple[str, float | None, bool]:
        """Make an attempt; return why it failed, when it may be made again, whether it was last."""
        body = body_of(delivery.job)
        secrets = self._of_tenants.get(delivery.job.tenant) or self._secrets
        headers = headers_of(delivery.job.job.job_id, body, secrets, time.time())
        last = delivery.attempt >= self._config.max_tries
        try:
            answer = await self._post(delivery.url, headers, body)
        except Unreachable as error:
            return str(error), None, last
        if 200 <= answer.status < 300:
            return "", None, True
        why = f"the receiver answered {answer.status}"
        if 300 <= answer.status < 400:
            why += ", and redirects are not followed"
        return why, answer.retry_after_s, last or answer.status == GONE

    def _pause_s(self, attempts: int, asked_s: float | None) -> float:
        most = self._config.max_pause_s
        # A float cannot hold 4.0**1000.
        pause_s = min(self._config.first_pause_s * GROWTH ** min(attempts - 1, 50), most)
        # Spread, so that a receiver that comes back does not get all at once.
        return max(pause_s * random.uniform(0.75, 1.25), min(asked_s or 0.0, most))

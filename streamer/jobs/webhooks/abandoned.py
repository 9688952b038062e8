"""End the webhooks that nobody delivers any more, since the configuration switches them off.

They were accepted before, by a process that shared the engine, and would otherwise count for ever.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Self

from streamer.engine.webhooks import Webhooks
from streamer.errors import EngineUnavailable

__all__ = ["Abandoned"]

log: Final = logging.getLogger(__name__)

ABANDONED_S: Final = 600.0
"""How long nobody must have delivered any: others may have them switched on, and restart."""
LOOK_S: Final = 60.0
AT_ONCE: Final = 100
SWITCHED_OFF: Final = "webhooks were switched off before it was delivered"


class Abandoned:
    """Looks for them as long as a process runs that delivers none. Use it as a context manager."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._run(), name="streamer-abandoned-webhooks")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                ended = await self._ended()
            except EngineUnavailable:
                pass
            except Exception:
                # If this ended, they would stay.
                log.exception("the webhooks that nobody delivers cannot be ended")
            else:
                if ended:
                    log.warning(
                        "%d webhooks were never delivered: webhooks.enabled is false, and no other "
                        "process delivers",
                        ended,
                    )
            await asyncio.sleep(LOOK_S)

    async def _ended(self) -> int:
        ended = 0
        while True:
            due = await self._webhooks.claim(AT_ONCE, abandoned_s=ABANDONED_S)
            if not due.deliveries:
                return ended
            for delivery in due.deliveries:
                await self._webhooks.failed(delivery, SWITCHED_OFF, None)
            ended += len(due.deliveries)

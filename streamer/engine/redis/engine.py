"""The Redis engine: what several processes, on one machine or on many, share.

Each process is a node. All state is in the server, and changes in operations that run there whole
(``lua/``); a node has a `Link` for its calls and a `Listener` for what it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streamer.engine.endings import SHUT_DOWN
from streamer.engine.interface import JobView
from streamer.engine.redis.broker import RedisBroker
from streamer.engine.redis.runner import RedisRunner
from streamer.errors import EngineUnavailable
from streamer.model.events import encode

__all__ = ["RedisEngine"]

log: Final = logging.getLogger(__name__)


class RedisEngine(RedisBroker, RedisRunner):
    """Broker and runner of one node; see `streamer.engine.interface.Engine`. Close it after use."""

    def listen(self, hear: Callable[[JobView], None]) -> None:
        self._scripts.hear = hear

    async def start(self, folder: Path) -> None:
        """Connect. Raises `ServiceError` if the server cannot be used."""
        await self.connect()
        await self.blobs.start(folder)

    async def drain(self) -> None:
        self._draining = True
        kind, data = encode(SHUT_DOWN)
        while await self._scripts.call("drain", self._node, kind, data):
            pass
        for claims in self._claims.values():
            if not claims.waiting:
                await self._end_unfetched(claims)

    async def close(self) -> None:
        """End the jobs of this node, so that every reader gets a terminal event."""
        if self._closed:
            return
        self._closed = True
        self._places.close()
        if self._alive is not None:
            self._alive.cancel()
            await asyncio.gather(self._alive, return_exceptions=True)
            try:
                await self.drain()
                await asyncio.gather(*(self._abandon(one) for one in [*self._leases.values()]))
                await self._scripts.call("close", self._node)
                while await self._scripts.call("endings"):
                    pass
                await self._mirrors.settle()
            except EngineUnavailable:
                pass  # its jobs end when its leases do
            except Exception:
                log.exception("the jobs of this node could not be ended")
        self._bell.set()
        self.sessions.look_all()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.blobs.close()
        await self._mirrors.close()
        await self._listener.close()
        await self._link.close()

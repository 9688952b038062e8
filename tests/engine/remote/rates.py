"""Rates behind the connection."""

from __future__ import annotations

from streamer.engine.memory.rates import MemoryRates
from streamer.engine.rates import Used

from .wire import Wire


class RemoteRates:
    """See `streamer.engine.rates.Rates`."""

    def __init__(self, rates: MemoryRates, wire: Wire) -> None:
        self._rates = rates
        self._wire = wire

    async def take(self, kind: str, key: str, most: int, window_s: int) -> bool:
        return await self._wire.call(self._rates.take, kind, key, most, window_s)

    async def used(self, kind: str, key: str, window_s: int) -> Used:
        return await self._wire.call(self._rates.used, kind, key, window_s)

"""The rates of all nodes, in the server."""

from __future__ import annotations

import secrets

from streamer.engine.rates import Used
from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.wire import tenant_hash

__all__ = ["RedisRates"]


class RedisRates:
    """See `streamer.engine.rates.Rates`."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def take(self, kind: str, key: str, most: int, window_s: int) -> bool:
        token = secrets.token_hex(4)
        words = (kind, tenant_hash(key), token, most, window_s)
        return bool(await self._scripts.call("rate_take", *words))

    async def used(self, kind: str, key: str, window_s: int) -> Used:
        number, age = await self._scripts.call("rate_used", kind, tenant_hash(key), window_s)
        return Used(int(number), float(age))

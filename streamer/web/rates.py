"""Limit how often something is asked: by each tenant, and from each address.

What counts are submissions, each of a batch by itself, sessions that are opened, and uploads. The
library `limits` has the notation and the strategy, a moving window: in no period as long as that of
a rate is there more than its number, and there is room again after Retry-After.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import Final

from aiohttp import web
from limits import RateLimitItem
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter

from streamer.config.auth import parse_rate
from streamer.config.schema import Config
from streamer.engine.rates import Rates
from streamer.errors import EngineUnavailable, RateLimited
from streamer.web.callers.address import AddressOf, network_of

__all__ = ["FailedLogins", "RequestRates", "send_rates"]

TOLD: Final = web.RequestKey("streamer-rates", dict[str, tuple[str, str]])
"""The rates that a request counted for, by name: RateLimit-Policy, and RateLimit."""

MOST_LOCKED: Final = 10_000


class RequestRates:
    """The rates of the configuration, each with its key there."""

    def __init__(self, config: Config, rates: Rates, address_of: AddressOf) -> None:
        auth, server = config.auth, config.server
        self._address_of = address_of
        self._address = _rate(rates, "address", "server.rate_per_address", server.rate_per_address)
        self._tenant = _rate(rates, "tenant", "auth.rate", auth.rate)
        self._tenants = {
            name: _rate(rates, "tenant", "rate in auth.tenants", bounds.rate)
            for name, bounds in auth.tenants.items()
            if bounds.rate
        }

    @property
    def any(self) -> bool:
        """Whether there is a rate at all."""
        return bool(self._address or self._tenant or self._tenants)

    async def take(self, request: web.Request, tenant: str) -> None:
        """Count one more. Raises `RateLimited`, and what the engine does if it is not there."""
        if self._address is not None:
            await self._address.take(request, network_of(self._address_of(request)))
        rate = self._tenants.get(tenant, self._tenant)
        if rate is not None:
            await rate.take(request, tenant)


async def send_rates(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the caller what is left (draft-ietf-httpapi-ratelimit-headers)."""
    told = request.get(TOLD)
    if told:
        response.headers["RateLimit-Policy"] = ", ".join(policy for policy, _ in told.values())
        response.headers["RateLimit"] = ", ".join(left for _, left in told.values())


class FailedLogins:
    """Bounds how many wrong tokens may come from one address.

    Beyond them the address is locked out: its tokens are not even looked at, but for those that
    `streamer token` has made, which nobody can guess. Otherwise one could lock out others that come
    from the same address.
    """

    def __init__(self, config: Config, rates: Rates, address_of: AddressOf) -> None:
        key, text = "auth.failed_logins", config.auth.failed_logins
        self._rate = _Rate(rates, "login", key, parse_rate(key, text))
        self._address_of = address_of
        self._locked: OrderedDict[str, float] = OrderedDict()
        """The addresses that are locked out, until when; the engine knows it for all processes."""

    def check(self, request: web.Request) -> None:
        """Raise `RateLimited` if the address is locked out."""
        address = network_of(self._address_of(request))
        left_s = self._locked.get(address, 0.0) - time.monotonic()
        if left_s > 0:
            raise self._refusal(left_s)
        self._locked.pop(address, None)

    async def count(self, request: web.Request) -> None:
        """Count a wrong token. Raises `RateLimited` if it was one too many."""
        address = network_of(self._address_of(request))
        try:
            if await self._rate.hit(address):
                return
            _, left_s = await self._rate.standing(address)
        except EngineUnavailable:
            # Nobody counts: as many as are allowed, one after another, in each process.
            self._lock(address, self._rate.pause_s)
            raise
        self._lock(address, left_s)
        raise self._refusal(left_s)

    def _lock(self, address: str, left_s: float) -> None:
        self._locked[address] = time.monotonic() + left_s
        self._locked.move_to_end(address)
        if len(self._locked) > MOST_LOCKED:
            self._locked.popitem(last=False)

    def _refusal(self, left_s: float) -> RateLimited:
        wait_s = _whole(left_s)
        return RateLimited(
            f"too many wrong tokens came from your address (auth.failed_logins): try again in "
            f"{wait_s} s",
            retry_after_s=wait_s,
        )


class _Rate:
    """One rate, for any number of tenants or addresses."""

    def __init__(self, rates: Rates, kind: str, key: str, item: RateLimitItem) -> None:
        self._kind = kind
        self._key = key
        self._item = type(item)(item.amount, item.multiples, namespace=kind)
        self._strategy = MovingWindowRateLimiter(_Windows(rates))  # type: ignore[arg-type]

    @property
    def pause_s(self) -> float:
        """How far apart its number is if it is spread over its time."""
        return float(self._item.get_expiry() / self._item.amount)

    async def take(self, request: web.Request, name: str) -> None:
        """Count one more, and note what the answer has to tell. Raises `RateLimited`."""
        taken = await self.hit(name)
        left, free_s = await self.standing(name)
        wait_s = _whole(free_s)
        most, window_s = self._item.amount, self._item.get_expiry()
        told = request.setdefault(TOLD, {})
        told[self._kind] = (
            f'"{self._kind}";q={most};w={window_s}',
            f'"{self._kind}";r={left if taken else 0};t={wait_s}',
        )
        if not taken:
            whom = "you may send" if self._kind == "tenant" else "your address may send"
            raise RateLimited(
                f"{whom} {most} requests in {window_s} s ({self._key}): try again in {wait_s} s",
                retry_after_s=wait_s,
            )

    async def hit(self, name: str) -> bool:
        return await self._strategy.hit(self._item, name)

    async def standing(self, name: str) -> tuple[int, float]:
        """Return how many are left, and in how many seconds the first one taken is free again."""
        stats = await self._strategy.get_window_stats(self._item, name)
        return max(stats.remaining, 0), max(stats.reset_time - time.time(), 0.0)


@Storage.register
class _Windows:
    """The engine's rates as the storage of a moving window, which needs no more than this.

    Those of the library do not fit: the one in memory has no bound, and looks at every key at each
    request; the one in Redis has connections of its own, which know nothing of ours.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return await self._rates.take(_kind(key), key, limit, expiry)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        used = await self._rates.used(_kind(key), key, expiry)
        # By this host's clock, whatever the engine's is.
        return time.time() - used.oldest_s, used.number


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _rate(rates: Rates, kind: str, key: str, text: str) -> _Rate | None:
    return _Rate(rates, kind, key, parse_rate(key, text)) if text else None


def _whole(seconds: float) -> int:
    return max(math.ceil(seconds), 1)

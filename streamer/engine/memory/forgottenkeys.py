"""The idempotency keys of jobs whose records are gone, so that no job runs twice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from streamer.engine.interface import Idempotency
from streamer.engine.refusals import key_gone, other_request

__all__ = ["ForgottenKeys"]


class ForgottenKeys:
    """At most `most` keys, each for `keep_s` after its first use.

    If there are too many the oldest is dropped; but if one tenant has more than half of them, its
    own oldest, so that it cannot make the jobs of others run twice. Each key takes about 450 bytes,
    whatever its length.
    """

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float]) -> None:
        self._keep_s = keep_s
        self._most = most
        self._clock = clock
        self._keys: OrderedDict[bytes, tuple[str, bytes, float]] = OrderedDict()
        self._names_of: dict[str, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, tenant: str, key: str, digest: bytes, came_at: float) -> None:
        """Remember the key of a job whose record is being deleted."""
        until = came_at + self._keep_s
        if until > self._clock():
            name = _name(tenant, key)
            self._keys[name] = (tenant, digest, until)
            own = self._names_of.setdefault(tenant, OrderedDict())
            own[name] = None
            while len(self._keys) > self._most:
                self._drop(next(iter(own if len(own) * 2 > self._most else self._keys)))

    def check(self, tenant: str, idempotency: Idempotency) -> None:
        """Refuse a key whose job is gone.

        Raises `Gone`, or `Conflict` if it was used with another request.
        """
        now = self._clock()
        # Roughly in the order of their times; a key out of order is dropped when it is looked up.
        while self._keys and next(iter(self._keys.values()))[2] <= now:
            self._drop(next(iter(self._keys)))
        name = _name(tenant, idempotency.key)
        _, digest, until = self._keys.get(name, (tenant, b"", 0.0))
        if until <= now:
            self._drop(name)
        elif digest != idempotency.digest:
            raise other_request(idempotency.key)
        else:
            raise key_gone(idempotency.key)

    def _drop(self, name: bytes) -> None:
        if name in self._keys:
            tenant, *_ = self._keys.pop(name)
            del self._names_of[tenant][name]
            if not self._names_of[tenant]:
                del self._names_of[tenant]


def _name(tenant: str, key: str) -> bytes:
    owner = tenant.encode("utf-8", "surrogatepass")
    return hashlib.sha256(
        b"%d:%b%b" % (len(owner), owner, key.encode("utf-8", "surrogatepass"))
    ).digest()

"""Remember the idempotency keys of jobs whose records are gone, so that none of them runs twice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from streamer.engine import Idempotency
from streamer.errors import Conflict, Gone, quoted

__all__ = ["ForgottenKeys", "other_request"]


def other_request(key: str) -> Conflict:
    """Return the refusal of a key that came with another request before."""
    return Conflict(
        f"the idempotency key {quoted(key)} came with another request before: use a new key for a "
        "new job"
    )


class ForgottenKeys:
    """Keys for `keep_s` after they came first, `most` of them; the oldest go first.

    Each takes about 300 bytes, whatever its length.
    """

    def __init__(self, keep_s: float, most: int, clock: Callable[[], float]) -> None:
        self._keep_s = keep_s
        self._most = most
        self._clock = clock
        self._keys: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, tenant: str, key: str, digest: bytes, came_at: float) -> None:
        """Remember the key of a job that is forgotten now."""
        until = came_at + self._keep_s
        if until > self._clock():
            self._keys[_name(tenant, key)] = (digest, until)
            while len(self._keys) > self._most:
                self._keys.popitem(last=False)

    def check(self, tenant: str, idempotency: Idempotency) -> None:
        """Refuse a key whose job is gone.

        Raises `Gone`, or `Conflict` when it came with another request.
        """
        now = self._clock()
        # About in the order of their times: what is out of it goes when it is asked for.
        while self._keys and next(iter(self._keys.values()))[1] <= now:
            self._keys.popitem(last=False)
        name = _name(tenant, idempotency.key)
        digest, until = self._keys.get(name, (b"", 0.0))
        if until <= now:
            self._keys.pop(name, None)
        elif digest != idempotency.digest:
            raise other_request(idempotency.key)
        else:
            raise Gone(
                f"the job of the idempotency key {quoted(idempotency.key)} ran and is not kept any "
                "more; use a new key to run it again"
            )


def _name(tenant: str, key: str) -> bytes:
    owner = tenant.encode("utf-8", "surrogatepass")
    return hashlib.sha256(
        b"%d:%b%b" % (len(owner), owner, key.encode("utf-8", "surrogatepass"))
    ).digest()

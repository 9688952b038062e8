"""Bound the requests that wait for their jobs: each holds a connection, then the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.errors import RateLimited

__all__ = ["Places"]


class Places:
    """Counts the requests that wait; a tenant with a name may have at most half of the places."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, tenant: str) -> Iterator[None]:
        """Take a place. Raises `RateLimited` if there is none."""
        share = max(self._most // 2, 1) if tenant else self._most
        if self._taken.total() >= self._most or self._taken[tenant] >= share:
            raise RateLimited("too many requests wait for their jobs (compat.max_waiting)")
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]

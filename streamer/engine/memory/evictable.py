"""The blobs that give way when there is no room for others: first those read least recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

__all__ = ["Evictable"]


class Evictable:
    def __init__(self) -> None:
        # OrderedDict: finding the first key of a plain dict is slow after many deletions.
        self._tenants: OrderedDict[str, str] = OrderedDict()
        self._of: dict[str, OrderedDict[str, None]] = {}

    def add(self, blob_id: str, tenant: str) -> None:
        self._tenants[blob_id] = tenant
        self._of.setdefault(tenant, OrderedDict())[blob_id] = None

    def touch(self, blob_id: str) -> None:
        """Let a blob go last, which is being read; without effect if it does not give way."""
        if blob_id in self._tenants:
            self._tenants.move_to_end(blob_id)
            self._of[self._tenants[blob_id]].move_to_end(blob_id)

    def remove(self, blob_id: str) -> None:
        """Forget a blob, if it is here."""
        tenant = self._tenants.pop(blob_id, None)
        if tenant is not None:
            del self._of[tenant][blob_id]
            if not self._of[tenant]:
                del self._of[tenant]

    def of(self, tenant: str | None) -> Iterator[str]:
        """Yield the blobs of one tenant, or of all, in their order."""
        return iter(self._tenants if tenant is None else self._of.get(tenant, ()))

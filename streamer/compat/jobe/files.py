"""The files that clients of Jobe put once and name in many runs."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["FileCache"]

ENTRY_BYTES = 512
"""The memory of an entry besides its contents."""


class FileCache:
    """Keeps the contents of files in memory, each tenant's apart from those of others.

    It takes at most `room` bytes, and one tenant with a name at most half of that. Who needs more
    loses the files of theirs that were used least recently; a client puts a file again when it is
    told that it is missing.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._used: dict[str, int] = {}

    def put(self, tenant: str, file_id: str, content: bytes) -> bool:
        """Keep a file; False, and nothing changes, if it is larger than a tenant may keep."""
        share = self._room // 2 if tenant else self._room
        size = _size(tenant, file_id, content)
        if size > share:
            return False
        self._forget((tenant, file_id))
        while self._used.get(tenant, 0) + size > share:
            self._forget(next(key for key in self._kept if key[0] == tenant))
        while sum(self._used.values()) + size > self._room:
            self._forget(next(iter(self._kept)))
        self._kept[tenant, file_id] = content
        self._used[tenant] = self._used.get(tenant, 0) + size
        return True

    def find(self, tenant: str, file_id: str) -> bytes | None:
        """Return what was put under an id by this tenant, if it is still there."""
        content = self._kept.get((tenant, file_id))
        if content is not None:
            self._kept.move_to_end((tenant, file_id))
        return content

    def __contains__(self, key: tuple[str, str]) -> bool:
        return self.find(*key) is not None

    def _forget(self, key: tuple[str, str]) -> None:
        content = self._kept.pop(key, None)
        if content is None:
            return
        tenant = key[0]
        self._used[tenant] -= _size(tenant, key[1], content)
        if not self._used[tenant]:
            del self._used[tenant]


def _size(tenant: str, file_id: str, content: bytes) -> int:
    return ENTRY_BYTES + len(tenant) + len(file_id) + len(content)

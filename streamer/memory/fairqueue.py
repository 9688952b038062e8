"""Take turns among tenants: round robin between them, first come first served within one.

A tenant that floods the queue waits behind itself, not in front of the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

__all__ = ["FairQueue"]


class FairQueue:
    """The ids of waiting jobs. All but `position` and `heads` take constant time."""

    def __init__(self) -> None:
        # OrderedDict, as the first key of a plain dict that lost many is slow to find.
        self._ring: OrderedDict[str, OrderedDict[str, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count(self, tenant: str) -> int:
        """Return how many of the tenant's jobs wait."""
        return len(self._ring.get(tenant, ()))

    def push(self, tenant: str, job_id: str) -> None:
        """Add a job behind its tenant's others; a tenant new here has the last turn."""
        self._ring.setdefault(tenant, OrderedDict())[job_id] = None
        self._length += 1

    def push_back(self, tenant: str, job_id: str) -> None:
        """Put a job that was popped before its tenant's others again."""
        self.push(tenant, job_id)
        self._ring[tenant].move_to_end(job_id, last=False)

    def pop(self) -> str:
        """Take the job whose turn it is; there must be one."""
        tenant = next(iter(self._ring))
        job_id = next(iter(self._ring[tenant]))
        self._ring.move_to_end(tenant)
        self.remove(tenant, job_id)
        return job_id

    def remove(self, tenant: str, job_id: str) -> None:
        """Take a job out of its turn. Raises KeyError if it does not wait."""
        line = self._ring[tenant]
        del line[job_id]
        self._length -= 1
        if not line:
            del self._ring[tenant]

    def position(self, tenant: str, job_id: str) -> int:
        """Return how many `pop`s from now the job is taken, from 1."""
        line = self._ring[tenant]
        # A job that was just pushed is the common question, and is found at once.
        ahead = len(line) - 1 if next(reversed(line)) == job_id else list(line).index(job_id)
        if ahead == 0 and next(reversed(self._ring)) == tenant:
            return len(self._ring)
        place = ahead + 1
        turns = ahead + 1
        for other, others in self._ring.items():
            if other == tenant:
                turns = ahead  # those behind us in the ring have had one turn less
            else:
                place += min(len(others), turns)
        return place

    def heads(self) -> Iterator[str]:
        """Yield each tenant's next job."""
        for line in self._ring.values():
            yield next(iter(line))

"""The queue: round robin between tenants, first come first served within one tenant.

A tenant that floods the queue delays only itself. Each job has a weight in bytes, and the queue
knows the sums for each tenant and in total.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterator

__all__ = ["FairQueue"]


class FairQueue:
    """The ids of waiting jobs. Methods take constant time unless they walk over jobs."""

    def __init__(self) -> None:
        # OrderedDict: finding the first key of a plain dict is slow after many deletions.
        self._ring: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()
        self._weights: Counter[str] = Counter()
        self._length = 0
        self.weight = 0
        """The sum of all weights."""

    def __len__(self) -> int:
        return self._length

    def count(self, tenant: str) -> int:
        return len(self._ring.get(tenant, ()))

    def weight_of(self, tenant: str) -> int:
        return self._weights[tenant]

    def push(self, tenant: str, job_id: str, weight: int) -> None:
        """Add a job behind those of its tenant; a new tenant gets the last turn."""
        self._ring.setdefault(tenant, OrderedDict())[job_id] = 0
        self._length += 1
        self.add_weight(tenant, job_id, weight)

    def add_weight(self, tenant: str, job_id: str, weight: int) -> None:
        self._ring[tenant][job_id] += weight
        self._weights[tenant] += weight
        self.weight += weight

    def pop(
        self, held: Container[str] = (), wanted: Callable[[str], bool] | None = None
    ) -> str | None:
        """Remove and return the next job of a tenant that is not in `held`; None if there is none.

        With `wanted`, the first of the tenant's jobs that is wanted. A tenant without such a job
        keeps its turn.
        """
        for tenant, line in self._ring.items():
            if tenant in held:
                continue
            job_id = next(iter(line) if wanted is None else filter(wanted, line), None)
            if job_id is not None:
                self._ring.move_to_end(tenant)
                self.remove(tenant, job_id)
                return job_id
        return None

    def remove(self, tenant: str, job_id: str) -> None:
        """Remove a job. Raises KeyError if it does not wait."""
        line = self._ring[tenant]
        weight = line.pop(job_id)
        self._length -= 1
        self._weights[tenant] -= weight
        self.weight -= weight
        if not line:
            del self._ring[tenant], self._weights[tenant]

    def position(self, tenant: str, job_id: str) -> int:
        """Return after how many `pop`s the job is taken, from 1, if no tenant is held."""
        line = self._ring[tenant]
        # Usually the job was just pushed; it is found at once.
        ahead = len(line) - 1 if next(reversed(line)) == job_id else list(line).index(job_id)
        if ahead == 0 and next(reversed(self._ring)) == tenant:
            return len(self._ring)
        place = ahead + 1
        turns = ahead + 1
        for other, others in self._ring.items():
            if other == tenant:
                turns = ahead  # tenants behind this one in the ring have had one turn less
            else:
                place += min(len(others), turns)
        return place

    def in_order(self) -> Iterator[str]:
        """Yield the jobs in the order of their turns; do not change the queue meanwhile."""
        lines = [iter(line) for line in self._ring.values()]
        while lines:
            going = []
            for line in lines:
                job_id = next(line, None)
                if job_id is not None:
                    going.append(line)
                    yield job_id
            lines = going

    def heads(self) -> Iterator[str]:
        for line in self._ring.values():
            yield next(iter(line))

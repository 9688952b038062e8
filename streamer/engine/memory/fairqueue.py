"""Take turns among tenants: round robin between them, first come first served within one.

A tenant that floods the queue waits behind itself, not in front of the others. Each job has a
weight in bytes, and the queue knows the sum, of all and of each tenant.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterator

__all__ = ["FairQueue"]


class FairQueue:
    """The ids of waiting jobs. What does not walk over them takes constant time."""

    def __init__(self) -> None:
        # OrderedDict, as the first key of a plain dict that lost many is slow to find.
        self._ring: OrderedDict[str, OrderedDict[str, int]] = OrderedDict()
        self._weights: Counter[str] = Counter()
        self._length = 0
        self.weight = 0
        """What all of them weigh."""

    def __len__(self) -> int:
        return self._length

    def count(self, tenant: str) -> int:
        """Return how many of the tenant's jobs wait."""
        return len(self._ring.get(tenant, ()))

    def weight_of(self, tenant: str) -> int:
        """Return what the tenant's jobs weigh."""
        return self._weights[tenant]

    def push(self, tenant: str, job_id: str, weight: int) -> None:
        """Add a job behind its tenant's others; a tenant new here has the last turn."""
        self._ring.setdefault(tenant, OrderedDict())[job_id] = 0
        self._length += 1
        self.add_weight(tenant, job_id, weight)

    def add_weight(self, tenant: str, job_id: str, weight: int) -> None:
        """Have a job that waits weigh more."""
        self._ring[tenant][job_id] += weight
        self._weights[tenant] += weight
        self.weight += weight

    def pop(
        self, held: Container[str] = (), wanted: Callable[[str], bool] | None = None
    ) -> str | None:
        """Take the job whose turn it is, of a tenant that is not held; None if there is none.

        With `wanted` it is the first of its tenant's that is. A tenant of whom none is taken keeps
        its turn.
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
        """Take a job out of its turn. Raises KeyError if it does not wait."""
        line = self._ring[tenant]
        weight = line.pop(job_id)
        self._length -= 1
        self._weights[tenant] -= weight
        self.weight -= weight
        if not line:
            del self._ring[tenant], self._weights[tenant]

    def position(self, tenant: str, job_id: str) -> int:
        """Return how many `pop`s from now the job is taken, from 1, if no tenant is held."""
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

    def in_order(self) -> Iterator[str]:
        """Yield the jobs in the order of their turns, as long as nothing is pushed or taken."""
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
        """Yield each tenant's next job."""
        for line in self._ring.values():
            yield next(iter(line))

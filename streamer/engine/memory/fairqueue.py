"""The queue: tenants take turns, and within one tenant the highest priority comes first.

Jobs of one priority are first come, first served. A tenant that floods the queue delays only
itself: none has two turns in a row while another one waits. Each job has a weight in bytes, and
the queue knows the sums for each tenant and in total.
"""

from __future__ import annotations

import bisect
import itertools
import operator
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterator, Sequence
from collections.abc import Set as AbstractSet

from streamer.model.job import Lane

__all__ = ["FairQueue"]


class FairQueue:
    """The ids of waiting jobs. Methods take constant time unless they walk over jobs."""

    def __init__(self) -> None:
        # OrderedDict: finding the first key of a plain dict is slow after many deletions.
        self._ring: OrderedDict[str, _Line] = OrderedDict()
        self._served: str | None = None
        """The tenant that had the last turn."""
        self._weights: Counter[str] = Counter()
        self._lanes: OrderedDict[str, Lane] = OrderedDict()
        """Those of all jobs, as they came."""
        self._in_lane: Counter[Lane] = Counter()
        self.weight = 0
        """The sum of all weights."""

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def oldest(self) -> str | None:
        """The job that has waited longest; None if none waits."""
        return next(iter(self._lanes), None)

    def count(self, tenant: str) -> int:
        line = self._ring.get(tenant)
        return 0 if line is None else len(line)

    def weight_of(self, tenant: str) -> int:
        return self._weights[tenant]

    def push(
        self,
        tenant: str,
        job_id: str,
        weight: int,
        priority: int,
        lane: Lane,
        *,
        came_before: Callable[[str], bool] | None = None,
    ) -> None:
        """Add a job behind those of its tenant that have no lower priority.

        With `came_before`, which tells it of a waiting job, in the place that it once had: behind
        those that have come before it only.

        A new tenant gets the last turn, but before the tenant that had one just now.
        """
        line = self._ring.get(tenant)
        if line is None:
            last = next(reversed(self._ring), None)
            line = self._ring[tenant] = _Line()
            if last is not None and last == self._served:
                self._ring.move_to_end(last)
        line.push(job_id, priority, lane, came_before)
        self._lanes[job_id] = lane
        self._in_lane[lane] += 1
        self.add_weight(tenant, job_id, weight)

    def add_weight(self, tenant: str, job_id: str, weight: int) -> None:
        self._ring[tenant].level_of(job_id)[job_id] += weight
        self._weights[tenant] += weight
        self.weight += weight

    def pop(
        self, held: Container[str] = (), wanted: Callable[[Lane], bool] | None = None
    ) -> str | None:
        """Remove and return the next job of a tenant that is not in `held`; None if there is none.

        With `wanted`, the first of the tenant's jobs whose lane is wanted. A tenant without such a
        job keeps its turn.
        """
        # All jobs of a lane are, or none: not each of thousands is looked at.
        lanes = None if wanted is None else {lane for lane in self._in_lane if wanted(lane)}
        if lanes is not None and not lanes:
            return None
        for tenant, line in self._ring.items():
            if tenant in held or not (lanes is None or line.has_any(lanes)):
                continue
            job_id = next(job for job in line if lanes is None or self._lanes[job] in lanes)
            self._ring.move_to_end(tenant)
            self._served = tenant
            self.remove(tenant, job_id)
            return job_id
        return None

    def remove(self, tenant: str, job_id: str) -> None:
        """Remove a job. Raises KeyError if it does not wait."""
        line = self._ring[tenant]
        lane = self._lanes.pop(job_id)
        weight = line.remove(job_id, lane)
        _count_down(self._in_lane, lane)
        self._weights[tenant] -= weight
        self.weight -= weight
        if not line:
            del self._ring[tenant], self._weights[tenant]

    def position(self, tenant: str, job_id: str) -> int:
        """Return after how many `pop`s the job is taken, from 1, if no tenant is held."""
        return self.place(tenant, self._ring[tenant].ahead(job_id))

    def ahead(self, tenant: str, job_id: str) -> int:
        """Return how many of its tenant's jobs come before a job."""
        return self._ring[tenant].ahead(job_id)

    def ahead_of_new(self, tenant: str, priority: int = 0) -> int:
        """Return how many of its tenant's jobs would come before one that is pushed now."""
        line = self._ring.get(tenant)
        return 0 if line is None else line.ahead_of_new(priority)

    def place(self, tenant: str, ahead: int) -> int:
        """Return the position that a job of a tenant has, or would have, behind so many of it."""
        if ahead == 0 and next(reversed(self._ring), None) == tenant:
            return len(self._ring)
        if tenant not in self._ring:
            passes = bool(self._ring) and next(reversed(self._ring)) == self._served
            return len(self._ring) + 1 - passes
        place = ahead + 1
        turns = ahead + 1
        for other, others in self._ring.items():
            if other == tenant:
                turns = ahead  # tenants behind this one in the ring have had one turn less
            else:
                place += min(len(others), turns)
        return place

    def in_order(self) -> Iterator[tuple[str, int]]:
        """Yield the jobs in the order of their turns, and how many of their tenant's are before.

        Do not change the queue meanwhile.
        """
        lines: list[Iterator[str]] = []
        for line in self._ring.values():  # perhaps only a few of them are asked for
            ids = iter(line)
            lines.append(ids)
            yield next(ids), 0
        ahead = 1
        while lines:
            going = []
            for ids in lines:
                job_id = next(ids, None)
                if job_id is not None:
                    going.append(ids)
                    yield job_id, ahead
            lines = going
            ahead += 1

    def first_of(self, tenant: str, most: int) -> Sequence[str]:
        """Return the next jobs of a tenant."""
        return tuple(itertools.islice(self._ring.get(tenant, ()), most))


def _count_down(counter: Counter[Lane], lane: Lane) -> None:
    counter[lane] -= 1
    if not counter[lane]:
        del counter[lane]


class _Line:
    """The waiting jobs of one tenant, with their weights, in their order."""

    __slots__ = ("_in_lane", "_length", "_levels", "_priorities")

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, int]] = {}
        self._priorities: list[int] = []
        """Those of the levels, the highest first; there are few."""
        self._in_lane: Counter[Lane] = Counter()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        for priority in self._priorities:
            yield from self._levels[priority]

    def has_any(self, lanes: AbstractSet[Lane]) -> bool:
        return not lanes.isdisjoint(self._in_lane)

    def push(
        self, job_id: str, priority: int, lane: Lane, came_before: Callable[[str], bool] | None
    ) -> None:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = OrderedDict()
            bisect.insort(self._priorities, priority, key=operator.neg)
        level[job_id] = 0
        self._in_lane[lane] += 1
        if came_before is not None:
            # Few: they wait again too, or nobody can run them.
            before = [*itertools.takewhile(came_before, level)]
            for each in (job_id, *reversed(before)):
                level.move_to_end(each, last=False)
        self._length += 1

    def level_of(self, job_id: str) -> OrderedDict[str, int]:
        """Return the jobs of the same priority. Raises KeyError."""
        for level in self._levels.values():
            if job_id in level:
                return level
        raise KeyError(job_id)

    def remove(self, job_id: str, lane: Lane) -> int:
        """Remove a job and return its weight."""
        _count_down(self._in_lane, lane)
        weight = self.level_of(job_id).pop(job_id)
        self._length -= 1
        for priority in [one for one in self._priorities if not self._levels[one]]:
            self._priorities.remove(priority)
            del self._levels[priority]
        return weight

    def ahead(self, job_id: str) -> int:
        """Return how many jobs come before this one."""
        before = 0
        for priority in self._priorities:
            level = self._levels[priority]
            if job_id in level:
                # Usually the job was just pushed; it is found at once.
                last = next(reversed(level)) == job_id
                return before + (len(level) - 1 if last else list(level).index(job_id))
            before += len(level)
        raise KeyError(job_id)

    def ahead_of_new(self, priority: int) -> int:
        return sum(len(level) for one, level in self._levels.items() if one >= priority)

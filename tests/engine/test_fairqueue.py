from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from streamer.engine.memory.fairqueue import FairQueue
from streamer.model.job import Lane

tenants = st.sampled_from("abcd")
priorities = st.sampled_from([0, 0, 0, -10, 3, 10])
steps = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "pop", "pop_others", "pop_wanted", "remove"]),
        tenants,
        priorities,
    ),
    max_size=60,
)


class Naive:
    """The simplest implementation: a list of tenants in turn, each with a list of jobs."""

    def __init__(self) -> None:
        self.ring: list[tuple[str, list[str]]] = []
        self.served = ""
        self.priorities: dict[str, int] = {}

    def line(self, tenant: str) -> list[str]:
        for name, line in self.ring:
            if name == tenant:
                return line
        ends = bool(self.ring) and self.ring[-1][0] == self.served
        self.ring.insert(len(self.ring) - ends, (tenant, []))
        return self.line(tenant)

    def push(self, tenant: str, job: str, priority: int) -> None:
        self.priorities[job] = priority
        line = self.line(tenant)
        line.append(job)
        line.sort(key=lambda one: (-self.priorities[one], int(one)))

    def weight(self, tenant: str | None = None) -> int:
        return sum(
            weight_of(job)
            for name, line in self.ring
            for job in line
            if tenant is None or name == tenant
        )

    def clean(self) -> None:
        self.ring = [(name, line) for name, line in self.ring if line]

    def pop(self, held: str = "", wanted: Callable[[str], bool] = bool) -> tuple[str, str] | None:
        may = (
            n for n, (name, line) in enumerate(self.ring) if name != held if any(map(wanted, line))
        )
        place = next(may, None)
        if place is None:
            return None
        name, line = self.ring.pop(place)
        job = next(filter(wanted, line))
        line.remove(job)
        self.ring.append((name, line))
        self.served = name
        self.clean()
        return name, job

    def order(self) -> list[tuple[str, str]]:
        rest = Naive()
        rest.ring = [(name, list(line)) for name, line in self.ring]
        found = []
        while (job := rest.pop()) is not None:
            found.append(job)
        return found


EVEN, ODD = Lane("even", None, None, None), Lane("odd", None, None, None)


def even(job_id: str) -> bool:
    return int(job_id) % 2 == 0


def lane_of(job_id: str) -> Lane:
    return EVEN if even(job_id) else ODD


def weight_of(job_id: str) -> int:
    return 100 + int(job_id)


def test_a_lane_is_looked_at_once_however_many_wait_in_it() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.push("abcd"[number % 4], f"{2 * number}", 1, 0, EVEN)
    asked: list[Lane] = []

    def wanted(lane: Lane) -> bool:
        asked.append(lane)
        return lane == ODD

    assert queue.pop(wanted=wanted) is None
    queue.push("d", "1", 1, -10, ODD)
    assert queue.pop(wanted=wanted) == "1"
    assert asked == [EVEN, EVEN, ODD]


@given(steps)
def test_turns_and_positions_are_those_of_a_plain_round_robin(
    plan: list[tuple[str, str, int]],
) -> None:
    queue, naive = FairQueue(), Naive()
    for number, (step, tenant, priority) in enumerate(plan):
        job_id = str(number)
        if step == "push":
            queue.push(tenant, job_id, weight_of(job_id) - 1, priority, lane_of(job_id))
            queue.add_weight(tenant, job_id, 1)
            naive.push(tenant, job_id, priority)
        elif step in ("pop", "pop_others"):
            held = tenant if step == "pop_others" else ""
            job = naive.pop(held)
            assert queue.pop({held}) == (None if job is None else job[1])
        elif step == "pop_wanted":
            job = naive.pop(wanted=even)
            assert queue.pop(wanted=EVEN.__eq__) == (None if job is None else job[1])
        elif step == "remove" and queue.count(tenant):
            job_id = naive.line(tenant)[-1]
            queue.remove(tenant, job_id)
            naive.line(tenant).remove(job_id)
            naive.clean()
        order = naive.order()
        assert len(queue) == len(order)
        assert [job for job, _ in queue.in_order()] == [job for _, job in order]
        assert [ahead for _, ahead in queue.in_order()] == [queue.ahead(*job) for job in order]
        assert queue.weight == naive.weight()
        assert [queue.weight_of(name) for name in "abcd"] == [naive.weight(n) for n in "abcd"]
        assert [queue.position(*job) for job in order] == list(range(1, len(order) + 1))
        assert queue.oldest == min((job for _, job in order), key=int, default=None)
        assert {name: queue.count(name) for name in "abcd"} == {
            name: sum(job[0] == name for job in order) for name in "abcd"
        }

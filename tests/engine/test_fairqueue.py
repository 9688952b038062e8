from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from streamer.engine.memory.fairqueue import FairQueue

tenants = st.sampled_from("abcd")
steps = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "pop", "pop_others", "pop_wanted", "remove"]), tenants
    ),
    max_size=60,
)


class Naive:
    """The simplest implementation: a list of tenants in turn, each with a list of jobs."""

    def __init__(self) -> None:
        self.ring: list[tuple[str, list[str]]] = []

    def line(self, tenant: str) -> list[str]:
        for name, line in self.ring:
            if name == tenant:
                return line
        self.ring.append((tenant, []))
        return self.ring[-1][1]

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
        self.clean()
        return name, job

    def order(self) -> list[tuple[str, str]]:
        rest = Naive()
        rest.ring = [(name, list(line)) for name, line in self.ring]
        found = []
        while (job := rest.pop()) is not None:
            found.append(job)
        return found


def even(job_id: str) -> bool:
    return int(job_id) % 2 == 0


def weight_of(job_id: str) -> int:
    return 100 + int(job_id)


@given(steps)
def test_turns_and_positions_are_those_of_a_plain_round_robin(plan: list[tuple[str, str]]) -> None:
    queue, naive = FairQueue(), Naive()
    for number, (step, tenant) in enumerate(plan):
        job_id = str(number)
        if step == "push":
            queue.push(tenant, job_id, weight_of(job_id) - 1)
            queue.add_weight(tenant, job_id, 1)
            naive.line(tenant).append(job_id)
        elif step in ("pop", "pop_others"):
            held = tenant if step == "pop_others" else ""
            job = naive.pop(held)
            assert queue.pop({held}) == (None if job is None else job[1])
        elif step == "pop_wanted":
            job = naive.pop(wanted=even)
            assert queue.pop(wanted=even) == (None if job is None else job[1])
        elif step == "remove" and queue.count(tenant):
            job_id = naive.line(tenant)[-1]
            queue.remove(tenant, job_id)
            naive.line(tenant).remove(job_id)
            naive.clean()
        order = naive.order()
        assert len(queue) == len(order)
        assert list(queue.in_order()) == [job for _, job in order]
        assert queue.weight == naive.weight()
        assert [queue.weight_of(name) for name in "abcd"] == [naive.weight(n) for n in "abcd"]
        assert [queue.position(*job) for job in order] == list(range(1, len(order) + 1))
        assert sorted(queue.heads()) == sorted(line[0] for _, line in naive.ring)
        assert {name: queue.count(name) for name in "abcd"} == {
            name: sum(job[0] == name for job in order) for name in "abcd"
        }

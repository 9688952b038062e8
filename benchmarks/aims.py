"""What the figures are measured against."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.figures import TARGETS, Report, median, ratio

__all__ = ["AIMS", "Aim"]


class Aim(NamedTuple):
    """A bound of one figure, or of its ratio to another target's.

    `label` is that of `Figure`; `base` is one of the other targets, or None for the figure itself.
    """

    suite: str
    label: str
    base: str | None
    bound: float
    at_least: bool = False

    def value(self, report: Report) -> float | None:
        """Return what was measured; None if that was not measured."""
        row = report.rows.get(self.suite)
        found = [figure for figure in row.figures if figure.label == self.label] if row else []
        if not found:
            return None
        if self.base is not None:
            return ratio(found[0], TARGETS[0], self.base)
        return median(found[0].values[TARGETS[0]])

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


AIMS: Final = (
    Aim("latency", "python hello: first byte", "raw", 0.4),
    Aim("latency", "python hello, forked: first byte", "raw", 0.3),
    Aim("latency", "python hello, cold: first byte", "bwrap", 0.95),
    Aim("latency", "bash no-op: end", "bwrap", 1.0),
    *(
        Aim("throughput", f"{job}, at once, {load}", base, bound, at_least=True)
        for job, bounds in (
            ("bash no-op", {"bwrap": 0.95, "Express": 1.6}),
            ("python hello", {"bwrap": 0.95, "Express": 1.3}),
            ("python hello, forked", {"bwrap": 2.0, "Express": 2.5}),
        )
        for load in (16, 64)
        for base, bound in bounds.items()
    ),
    Aim("throughput", "bash no-op: server CPU a job, at once, 4", "Express", 0.5),
    Aim("throughput", "python hello: server CPU a job, at once, 4", "Express", 0.5),
    Aim("flood", "output", "Express", 2.5, at_least=True),
    Aim("delay", "delay p50, streams, 1", "Express", 1.0),
    Aim("delay", "delay p99, streams, 1", "Express", 1.0),
    Aim("delay", "delay p50, streams, 200", "Express", 0.7),
    Aim("delay", "delay p50 of the worst stream, x the median one's, streams, 200", None, 3.0),
    Aim("fanout", "delay p50, readers, 1,000", "Express", 0.7),
    Aim("fanout", "delay p99, readers, 1,000", "Express", 0.7),
    Aim("idle", "memory a stream, streams, 5,000", None, 6),
    Aim("slow", "memory that a hundred readers add at most", None, 20),
    Aim("projects", "10,000 files", None, 1000),
    Aim("judging", "cases, x runs, program that adds", None, 1.2),
    Aim("judging", "cases, x runs, program of 5 ms", None, 1.2),
    Aim("judging", "cases, x runs, program of 20 ms", None, 1.2),
)

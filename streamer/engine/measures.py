"""Measure finished jobs: how they ended, and how long their parts took.

Each process counts what it has seen: the end of a job in the process whose call ended it, its start
in that of its worker, the lag of a stream in that of its reader. So the counts of several processes
can be added.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final, get_args

from streamer.engine.interface import JobView
from streamer.model.events import Complete, Error, ErrorCode, Reason
from streamer.model.timeline import Timeline

__all__ = ["BOUNDS_S", "COMMAND", "OTHER", "Family", "Histogram", "JobMeasures"]

BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    *(2.5, 5, 10, 30, 60, 300, 600),
)
LAG_BOUNDS_S: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    *(2.5, 5, 10, 30),
)

OTHER: Final = "other"
"""The label of all languages and tenants that have none of their own."""
COMMAND: Final = "command"
"""The label, in place of a language, of a job that is a command."""

MOST_TENANTS: Final = 30
"""So many tenants have a label of their own: each is a series for each language and bound."""


class Histogram:
    """Counts of durations by their upper bounds, in seconds, and their sum."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """For each bound those up to it and above the previous one; last, those above them all."""
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration; 0 if it is negative, since the wall clock may have been set back."""
        seconds = max(seconds, 0.0)
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds


class Family:
    """Histograms with one name, by the values of its labels."""

    def __init__(self, *labels: str) -> None:
        self.labels = labels
        self.by_values: dict[tuple[str, ...], Histogram] = {}

    def observe(self, seconds: float, *values: str) -> None:
        found = self.by_values.get(values)
        if found is None:
            found = self.by_values[values] = Histogram()
        found.observe(seconds)


class JobMeasures:
    def __init__(self, languages: Iterable[str] = (), tenants: Iterable[str] = ()) -> None:
        """`languages` and `tenants` are the names of the configuration: no other becomes a label.

        Of the tenants only the first `MOST_TENANTS`.
        """
        self._languages = frozenset(languages)
        self._tenants = frozenset(["", *[*dict.fromkeys(tenants)][:MOST_TENANTS]])
        self.outcomes: Counter[str] = Counter(
            dict.fromkeys((*get_args(Reason), *get_args(ErrorCode)), 0)
        )
        """The number of jobs by reason or error code."""
        self.tenant_run_s: defaultdict[str, float] = defaultdict(float)
        """How long jobs had a worker, by tenant."""
        self.wait = Family("language", "tenant")
        """From a job's acceptance to a worker."""
        self.start = Family("language")
        """From the worker to the start of its first program, which may be a compiler."""
        self.compilation = Family("language")
        """From the start of the compiler to that of the program, or to the end."""
        self.first_output = Family("language")
        """From the acceptance to the first output."""
        self.run = Family("language", "reason")
        """From the worker to the job's end."""
        self.stream_lag = Histogram(LAG_BOUNDS_S)
        """From an event to its write to the socket of a reader: a sample."""

    def finished(self, view: JobView) -> None:
        """Count a job that is over, whether it has run or not."""
        end = view.result
        outcome = ""
        if isinstance(end, Complete | Error):
            outcome = end.reason if isinstance(end, Complete) else end.code
            self.outcomes[outcome] += 1
        language = self._language(view.job.language)
        if view.started_at is not None:
            tenant = self._tenant(view.tenant)
            self.wait.observe(view.started_at - view.created_at, language, tenant)
            if view.finished_at is not None:
                took_s = max(view.finished_at - view.started_at, 0.0)
                self.run.observe(took_s, language, outcome)
                self.tenant_run_s[tenant] += took_s
        if view.first_output_at is not None:
            self.first_output.observe(view.first_output_at - view.created_at, language)

    def ran(self, language: str | None, timeline: Timeline) -> None:
        """Count the parts of a job that a worker of this process has run."""
        name = self._language(language)
        if (start_s := timeline.start_s) is not None:
            self.start.observe(start_s, name)
        if (compile_s := timeline.compile_s) is not None:
            self.compilation.observe(compile_s, name)

    def _language(self, name: str | None) -> str:
        if name is None:
            return COMMAND
        return name if name in self._languages else OTHER

    def _tenant(self, name: str) -> str:
        return name if name in self._tenants else OTHER

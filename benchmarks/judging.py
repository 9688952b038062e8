"""Measure the cases of a job beside as many runs of its program in one sandbox."""

from __future__ import annotations

from typing import Final

from benchmarks.cases import SOURCE, InOne, took_s
from benchmarks.figures import Figure
from benchmarks.servers import STREAMER
from benchmarks.streams import Values
from streamer.compose import build
from streamer.model.job import Case, JobSpec
from streamer.worker import execution
from streamer.worker.cases import CaseRuns

__all__ = ["judging"]

CASES: Final = 100
CONFIG: Final = {
    "sandbox": {"backend": "bwrap"},
    "limits": {"max_cases": CASES},
    "compile_cache": {"max_bytes": 0},
}
WAYS: Final = {"cases": CaseRuns, "runs in one sandbox": InOne}


async def judging(rounds: int) -> list[Figure]:
    """A C program is compiled, and run for each case; both ways take turns."""
    figures = []
    async with build(CONFIG) as service:
        for name, clocks in (("that adds", 0), ("of 5 ms", 5_000), ("of 20 ms", 20_000)):
            job = JobSpec(language="c", code=SOURCE % clocks, stdin=b"1 2", cases=(Case(),) * CASES)
            found = Values()
            for turn in range(1 + rounds):
                for way, runs in WAYS.items():
                    vars(execution)["CaseRuns"] = runs
                    took = await took_s(service, job)
                    if turn:  # the first ones warm up
                        found.add(STREAMER, {way: took * 1e3})
            vars(execution)["CaseRuns"] = CaseRuns
            pairs = zip(*(found[way][STREAMER] for way in WAYS), strict=True)
            more = {STREAMER: [cases / alone for cases, alone in pairs]}
            figures += [
                Figure(f"{CASES} {way}, program {name}", "ms", found[way], plotted=True)
                for way in WAYS
            ]
            figures.append(Figure(f"cases, x runs, program {name}", "", more))
    return figures

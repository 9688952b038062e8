"""Time the cases of a job against as many runs of its program in one sandbox.

    python -m benchmarks.cases [ROUNDS] [CASES] [BACKEND]

A C program is compiled and run CASES times: as the cases of one job, each in a sandbox of its own,
and by the same calls in one sandbox. Both take turns. The program adds two numbers, or works for
5 ms of processor time. The ratio of each round is that of neighbours. Both have the event loop that
a service has (uvloop), and the second has no verdict of a case to write.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from typing import Any, Final

import uvloop

from streamer.compose import Parts, build
from streamer.model.events import Complete
from streamer.model.job import Case, JobSpec
from streamer.worker import execution
from streamer.worker.assignment import Assignment, CaseOutput
from streamer.worker.cases import CaseRuns
from streamer.worker.compilation import Compilation
from streamer.worker.output import Budget
from streamer.worker.verdict import JobEnd, Outcome

SOURCE: Final = """
#include <stdio.h>
#include <time.h>
int main(void) {
    int a, b;
    while (clock() < %d) { }
    if (scanf("%%d %%d", &a, &b) != 2)
        return 1;
    printf("%%d\\n", a + b);
}
"""


class InOne:
    """Runs every case of a job in the sandbox of its compiler, as no job does."""

    def __init__(
        self, work: Assignment, _: Compilation, end: JobEnd, held: contextlib.AsyncExitStack
    ) -> None:
        self._work = work
        self._end = end
        self._held = held
        self.ends: tuple[Any, ...] = ()

    async def run(self) -> Outcome:
        work = self._work
        sandbox = await work.opened(self._held)
        await work.put_files(sandbox)
        steps = (*work.job.steps[:-1], *(case.step for case in work.job.cases))
        for index, step in enumerate(steps):
            case = CaseOutput(index, Budget(10**6, work.budget), work.stop) if index else None
            result, reason = await work.run(sandbox, work.job, step, case)
            self._end.add(result, step.phase.value)
            if reason != "exited" or result.status:
                return reason
        return "exited"


async def took_s(service: Parts, job: JobSpec) -> float:
    began = time.perf_counter()
    end = await (await service.jobs.submit(job)).result()
    if not isinstance(end, Complete) or end.exit_code != 0:
        raise RuntimeError(f"the job has failed: {end}")
    return time.perf_counter() - began


async def measure(rounds: int, cases: int, backend: str) -> None:
    config = {
        "sandbox": {"backend": backend},
        "limits": {"max_cases": 1000},
        "compile_cache": {"max_bytes": 0},
    }
    async with build(config) as service:
        for name, clocks in (("adds", 0), ("5 ms", 5000)):
            job = JobSpec(language="c", code=SOURCE % clocks, stdin=b"1 2", cases=(Case(),) * cases)
            times: dict[str, list[float]] = {"cases": [], "runs": []}
            for turn in range(rounds + 1):
                for way, runs in (("cases", CaseRuns), ("runs", InOne)):
                    vars(execution)["CaseRuns"] = runs
                    taken = await took_s(service, job)
                    if turn:
                        times[way].append(taken)
            ratios = [a / b for a, b in zip(*times.values(), strict=True)]
            told = {way: f"{statistics.median(taken):.3f} s" for way, taken in times.items()}
            print(f"{name}: {told}, ratio {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    rounds, cases, backend = (*sys.argv[1:], *("7", "100", "bwrap")[len(sys.argv) - 1 :])
    uvloop.run(measure(int(rounds), int(cases), backend))

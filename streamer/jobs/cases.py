"""Check the cases of a job, and decide everything about each.

Of what a case does not change it has no copy: there may be hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from streamer.errors import InvalidJob, quoted
from streamer.jobs.arguments import check_arguments
from streamer.jobs.limits import resolved_limits
from streamer.model.capabilities import Capabilities
from streamer.model.job import Case, JobCase, JobSpec, Limits, Phase, ResolvedJob, Step

__all__ = ["Program", "check_cases", "with_cases"]

MAX_NAME_BYTES: Final = 100
"""Of a case: the last event of the job has all names."""

MAX_WORDS: Final = 16_384
"""Arguments and variables of all cases together, those of the job included, which each case has.

A few bytes could ask for millions of them: each takes memory, and time to count it."""

Program = Callable[[Limits], tuple[tuple[str, ...], Mapping[str, str]]]
"""Returns the command without the caller's arguments, and the runtime's variables, for limits."""


def check_cases(spec: JobSpec, given: int, most: int) -> None:
    """Check all but the limits of cases; `given` are the bytes of the job's own arguments.

    Raises `InvalidJob`.
    """
    if not spec.cases:
        if spec.stop_on_failure:
            raise InvalidJob("stopOnFailure is about cases: give cases", path="$.stopOnFailure")
        return
    if len(spec.cases) > most:
        raise InvalidJob(f"{len(spec.cases)} cases are too many: {most} at most", path="$.cases")
    without = {
        "interactive": spec.interactive,
        "terminal": spec.terminal is not None,
        "artifacts": bool(spec.artifacts),
    }
    for name, asked in without.items():
        if asked:
            raise InvalidJob(f"a job with cases cannot have {name}", path=f"$.{name}")
    words = 0
    for index, case in enumerate(spec.cases):
        path = f"$.cases[{index}]"
        words += len(spec.args if case.args is None else case.args) + len(case.env)
        if words > MAX_WORDS:
            raise InvalidJob(
                f"the cases have more than {MAX_WORDS} arguments and variables together; those of "
                "the job count for each case",
                path=path,
            )
        check_arguments(case.args or (), case.env, path, besides=given)
        if case.name is not None:
            _check_name(case.name, f"{path}.name")


def with_cases(
    job: ResolvedJob, spec: JobSpec, program: Program, workers: Capabilities, most_s: float
) -> ResolvedJob:
    """Return the job with its cases, of which each may lower its limits.

    They take one place one after another: together they may run for `most_s`. Raises `InvalidJob`.
    """
    if not spec.cases:
        return job
    if len(job.steps) > 1 and not workers.backends[job.backend].readable:
        raise InvalidJob(
            f"a compiled program cannot be taken out of the sandbox {quoted(job.backend)}, so it "
            "cannot have cases there",
            path="$.cases",
        )
    cases = tuple(
        _resolved(case, f"$.cases[{index}]", job, spec, program)
        for index, case in enumerate(spec.cases)
    )
    together_s = math.fsum(case.step.limits.wall_time_s for case in cases)
    if together_s > most_s:
        raise InvalidJob(
            f"by their wallTimeS the cases may run for {together_s:g} s together, and "
            f"limits.max_cases_s allows {most_s:g} s: lower it, or give fewer cases",
            path="$.cases",
        )
    return replace(job, cases=cases, stop_on_failure=spec.stop_on_failure)


def _resolved(case: Case, path: str, job: ResolvedJob, spec: JobSpec, program: Program) -> JobCase:
    limits = resolved_limits(case.limits, job.limits, job.limits, f"{path}.limits")
    step, env = job.steps[-1], case.env
    if limits != job.limits:
        argv, variables = program(limits)
        args = spec.args if case.args is None else case.args
        step = Step(Phase.RUN, (*argv, *args), limits)
        sized = {name: text for name, text in variables.items() if name not in spec.env}
        env = {**sized, **env}
    elif case.args is not None:
        step = Step(Phase.RUN, (*program(limits)[0], *case.args), limits)
    return JobCase(step, env, case.stdin, case.name)


def _check_name(name: str, path: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path=path) from None
    if not 0 < size <= MAX_NAME_BYTES or not name.isprintable():
        raise InvalidJob(
            f"the name of a case has 1 to {MAX_NAME_BYTES} bytes, without control characters",
            path=path,
        )

"""Why a program ended, whichever facts arrive late."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import cast

import pytest

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.meter import Alarm, Meter
from streamer.sandbox.shape import Cause, RunEnd
from streamer.worker.verdict import JobEnd, StopReason, reason_of


@dataclass
class Group:
    """The counters of a control group."""

    kills: int = 0

    def oom_kills(self) -> int:
        return self.kills

    def cpu_time_us(self) -> int:
        return 5

    def peak_memory_bytes(self) -> int:
        return 7


KILLED, EXITED = int(signal.SIGKILL), 3 << 8


@pytest.mark.parametrize(
    ("status", "cause", "stopped", "oom", "over", "reason"),
    [
        (EXITED, None, None, False, False, "exited"),
        (KILLED, None, None, False, False, "signaled"),
        (KILLED, "killed", "cancelled", False, False, "cancelled"),
        (EXITED, None, "wall_time", False, False, "wall_time"),
        (KILLED, "cpu_time", "cancelled", False, False, "cpu_time"),
        (EXITED, "disk", None, False, False, "disk"),
        # The kernel's notice may come after the end, its counter does not.
        (KILLED, None, None, True, False, "memory"),
        (KILLED, "killed", "wall_time", True, False, "memory"),
        (EXITED, None, None, True, False, "exited"),
        # What was left in the pipes is read after the end.
        (EXITED, None, None, False, True, "output_limit"),
        (EXITED, None, "cancelled", False, True, "cancelled"),
    ],
)
def test_the_first_cause_that_holds_is_the_reason(
    status: int,
    cause: str | None,
    stopped: StopReason | None,
    *,
    oom: bool,
    over: bool,
    reason: str,
) -> None:
    group = Group()
    meter = Meter(cast("Cgroup", group), Alarm(), Limits())
    group.kills += oom
    end = meter.judged(RunEnd(status, cause, 1, 1, 1), None)  # type: ignore[arg-type]
    assert reason_of(end, stopped, over_output=over) == reason


@pytest.mark.parametrize("passed", ["memory", "cpu_time"])
def test_a_run_that_was_killed_for_a_limit_ended_by_it(passed: Cause) -> None:
    meter = Meter(cast("Cgroup", Group()), Alarm(), Limits())
    for status, cause in ((KILLED, "killed"), (EXITED, None)):
        end = meter.judged(RunEnd(status, cause, 1, 1, 1), passed)  # type: ignore[arg-type]
        assert reason_of(end, "wall_time", over_output=True) == passed
    end = meter.judged(RunEnd(KILLED, "disk", 1, 1, 1), passed)
    assert reason_of(end, None, over_output=False) == "disk"


def test_what_the_kernel_killed_in_an_earlier_run_is_not_this_ones() -> None:
    group = Group(kills=3)
    meter = Meter(cast("Cgroup", group), Alarm(), Limits())
    end = meter.judged(RunEnd(KILLED, None, None, None, 1), None)
    assert (end.cause, end.cpu_time_us, end.peak_memory_bytes) == (None, 0, 7)


def test_a_job_is_the_sum_of_its_programs_and_the_last_ones_end() -> None:
    end = JobEnd("compile")
    end.add(RunEnd(0, None, 1_000, 50, 2_000), "compile")
    end.add(RunEnd(EXITED, None, 3_000, 40, 5_000), "run")
    told = end.complete("exited", sandbox="s", output_bytes=7, output_truncated=False)
    assert (told.exit_code, told.signal, told.phase) == (3, None, "run")
    assert (told.cpu_time_ms, told.duration_ms, told.peak_memory_bytes) == (4, 7, 50)


def test_what_nobody_measured_is_not_told() -> None:
    end = JobEnd("run")
    end.add(RunEnd(KILLED, "killed", None, None, 2_000), "run")
    told = end.complete("wall_time", sandbox="s", output_bytes=0, output_truncated=False)
    assert (told.cpu_time_ms, told.peak_memory_bytes) == (None, None)
    assert (told.exit_code, told.signal, told.timed_out) == (None, "SIGKILL", True)


def test_a_job_whose_program_never_ran_has_no_end_of_one() -> None:
    told = JobEnd("compile").complete(
        "cancelled", sandbox="s", output_bytes=0, output_truncated=False
    )
    assert (told.exit_code, told.signal, told.duration_ms, told.phase) == (None, None, 0, "compile")

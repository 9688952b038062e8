"""What of a job may be done before it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamer.model.job import JobProject, Limits, Phase, ResolvedJob, SourceFile, Step
from streamer.sandbox.drivers.deadlines import time_to_write
from streamer.sandbox.shape import StoredProject
from streamer.worker.prepare import MOST_OF_MEMORY, _program

LIMITS = Limits(memory_bytes=1_000_000)
JOB = ResolvedJob(
    job_id="job",
    language="python",
    backend="bwrap",
    steps=(Step(Phase.RUN, ("python3", "main.py"), LIMITS),),
    warm=True,
    fork="",
)
MOST = LIMITS.memory_bytes // MOST_OF_MEMORY


def test_no_interpreter_is_ahead_of_a_job_with_packages_of_its_own() -> None:
    """It has looked for them already."""
    packages = SourceFile(".local/lib/a.py", b"")
    assert _program(JOB, "/bin") is not None
    assert _program(replace(JOB, files=(packages,)), "/bin") is None
    for has_packages in (False, True):
        project = JobProject("blob", 1, 1, has_packages)
        assert (_program(replace(JOB, project=project), "/bin") is None) is has_packages


@pytest.mark.parametrize(("of_project", "of_file", "held"), [(MOST - 1, 1, True), (MOST, 1, False)])
def test_files_that_take_much_of_the_memory_come_before_the_program(
    of_project: int, of_file: int, *, held: bool
) -> None:
    project = JobProject("blob", of_project, 1)
    job = replace(JOB, project=project, files=(SourceFile("main.py", bytes(of_file)),))
    program = _program(job, "/bin")
    assert program is not None
    assert program.holds is held


def test_the_time_to_write_is_that_of_a_slow_disk() -> None:
    file = SourceFile("a/b", bytes(2**20))
    least = time_to_write(())
    assert time_to_write((file,)) == pytest.approx(least + 1 + 0.02)
    project = StoredProject(0, 2 * 2**20, 300)
    assert time_to_write((file,), project) == pytest.approx(least + 3 + 3.02)

"""The digest of a policy: whatever confines a job changes it, and nothing else does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from sandboxes.bwrap import Bwrap
from sandboxes.plain import Plain
from streamer.model.job import JobCase, Limits, Phase, ResolvedJob, Step
from streamer.worker.policy import PolicyDigest, policy_digest

LIMITS = Limits(wall_time_s=5)
STEP = Step(Phase.RUN, ("true",), LIMITS)
JOB = ResolvedJob("j", None, "bwrap", (STEP,))


@pytest.fixture
def digest() -> PolicyDigest:
    return policy_digest(Bwrap(), "cgroup-v1", strict_filter=False)


@pytest.mark.parametrize(
    "job",
    [
        replace(JOB, steps=(replace(STEP, limits=replace(LIMITS, processes=7)),)),
        replace(JOB, steps=(replace(STEP, phase=Phase.COMPILE),)),
        replace(JOB, steps=(STEP, STEP)),
        replace(JOB, network=True),
        replace(JOB, allow_hosts=("example.org",)),
        replace(JOB, read_only=("/opt",)),
        replace(JOB, etc=("php",)),
        replace(JOB, tmp_bytes=4096),
        replace(JOB, session_id="s"),
        replace(
            JOB,
            cases=(JobCase(replace(STEP, limits=replace(LIMITS, processes=7)), {}, None, None),),
        ),
    ],
    ids=["limits", "phase", "steps", "network", "hosts", "paths", "etc", "tmp", "session", "cases"],
)
def test_what_confines_a_job_is_in_it(digest: PolicyDigest, job: ResolvedJob) -> None:
    before = digest(JOB)
    assert digest(job) != before
    assert digest(JOB) == before


def test_it_is_made_once_for_equal_jobs(
    digest: PolicyDigest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    real = hashlib.sha256

    def counted(data: bytes) -> Any:
        made.append(data)
        return real(data)

    monkeypatch.setattr(hashlib, "sha256", counted)
    first = digest(JOB, way="template")
    assert digest(replace(JOB, job_id="other"), way="template") == first
    assert len(made) == 1


def test_the_worker_is_in_it(digest: PolicyDigest) -> None:
    others = [
        digest(JOB, way="template"),
        digest(JOB, way="forked"),
        policy_digest(Bwrap(tmp_bytes=4096), "cgroup-v1", strict_filter=False)(JOB),
        policy_digest(Bwrap(), "cgroup-v1", strict_filter=True)(JOB),
        policy_digest(Bwrap(), None, strict_filter=False)(JOB),
        policy_digest(Plain(), "cgroup-v1", strict_filter=False)(JOB),
    ]
    assert len({digest(JOB), *others}) == 7


def test_what_a_job_runs_is_not_and_equal_limits_are_equal(digest: PolicyDigest) -> None:
    written = replace(LIMITS, wall_time_s=5.0)
    other = replace(JOB, job_id="k", steps=(Step(Phase.RUN, ("false",), written),), stdin=b"x")
    # Another worker has seen the second one first.
    fresh = policy_digest(Bwrap(), "cgroup-v1", strict_filter=False)
    assert fresh(other) == digest(JOB) == digest(other)

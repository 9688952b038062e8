"""The largest limits that the configuration accepts are enforced, not treated as no limit."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest

from streamer.model.job import MOST, Limits, SourceFile
from tests.conftest import OpenService
from tests.running import run_job


@pytest.mark.parametrize("limit", [field.name for field in fields(Limits)])
async def test_a_job_runs_with_the_largest_limit(
    open_service: OpenService, backend: str, limit: str
) -> None:
    most = {limit: asdict(MOST)[limit]}
    service = await open_service(backend, limits={"default": most, "max": most})
    ran = await run_job(service, command=("cat", "a/b"), files=(SourceFile("a/b", b"1"),))
    assert (ran.verdict, ran.out) == ("exited 0", "1")

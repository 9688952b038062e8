"""A job that is over keeps nothing of what it was submitted with until the garbage collector runs."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.model.job import Case, JobSpec, ResolvedJob, SourceFile
from tests.conftest import OpenService

FILLS = ("sh", "-c", "head -c 9999999 /dev/zero >big; sleep 60")
SH = ("sh", "-c", "echo up; cat; exit 3")


@pytest.fixture(params=["plain", "bwrap"])
async def service(request: pytest.FixtureRequest, open_service: OpenService) -> Parts:
    return await open_service(request.param)


@pytest.mark.parametrize(
    "fields",
    [
        {"command": SH},
        {"command": SH, "stdin": "given"},
        {"command": SH, "files": (SourceFile("big", bytes(1000)),), "artifacts": ("big",)},
        {"command": ("sleep", "60"), "limits": {"wall_time_s": 0.2}},
        {"command": FILLS, "limits": {"disk_bytes": 8192}},
        {"language": "c", "code": "int main(void) { return 3; }"},
        {"language": "bash", "code": "cat", "cases": (Case(stdin=b"1"), Case(stdin=b"2"))},
    ],
    ids=["program", "input", "files", "stopped", "full", "compiled", "cases"],
)
async def test_nothing_of_a_job_that_is_over_is_kept(service: Parts, fields: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        job = await service.jobs.submit(JobSpec(**fields))
        await job.result()
        async with asyncio.timeout(20):
            while _kept(job.id):  # its worker may still be tidying up
                await asyncio.sleep(0.05)
    finally:
        gc.enable()


async def test_nothing_of_one_that_was_typed_to_and_cancelled(service: Parts) -> None:
    gc.collect()
    gc.disable()
    try:
        job = await service.jobs.submit(JobSpec(command=("cat",), interactive=True))
        await job.write(b"typed")
        async for event in job.events():
            if event.kind == "output":
                await job.cancel()
        async with asyncio.timeout(20):
            while _kept(job.id):
                await asyncio.sleep(0.05)
    finally:
        gc.enable()


def _kept(job_id: str) -> bool:
    jobs = [one for one in gc.get_objects() if isinstance(one, ResolvedJob)]
    return any(one.job_id == job_id for one in jobs)

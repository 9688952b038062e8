"""What a service does with its jobs in each backend, besides what the shipped suite requires."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from streamer.model.events import Truncated
from streamer.model.job import JobSpec
from streamer.model.runtime import Runtime
from streamer.sandbox.host.workspace import remove_tree
from streamer.testing.conformance.base import until_output
from tests.backends.conftest import checked_runs
from tests.conftest import OpenService
from tests.running import adopt_orphans, descendants, descriptors, kept_besides, run_job


async def test_what_the_compiler_left_running_dies_before_the_program_runs(
    open_service: OpenService, backend: str
) -> None:
    compiling = "sleep 600 & setsid sleep 600 & until [ $(pgrep -cx sleep) = 2 ]; do :; done"
    leaky = Runtime(
        name="leaky",
        entry="main.sh",
        compile=("sh", "-c", compiling),
        run=("sh", "-c", "pgrep -cx sleep || true"),
    )
    service = await open_service(backend, runtimes=(leaky,))
    async for run in checked_runs(service):
        ran = await run(language="leaky", code="")
        assert ran.out == "0\n"


async def test_output_over_the_limit_can_be_dropped_instead(
    open_service: OpenService, backend: str
) -> None:
    streams: Mapping[str, object] = {"on_output_limit": "truncate"}
    service = await open_service(backend, streams=streams)
    async for run in checked_runs(service):
        ran = await run(
            command=("sh", "-c", "head -c 500000 /dev/zero | tr '\\0' x; echo e >&2; exit 5"),
            limits={"output_bytes": 100_000},
        )
        assert (ran.complete.reason, ran.complete.exit_code) == ("exited", 5)
        assert ran.text() == "x" * 100_000
        dropped = {
            e.data.stream: e.data.dropped_bytes for e in ran.events if isinstance(e.data, Truncated)
        }
        assert dropped == {"stdout": 400_000, "stderr": 2}


async def test_stopping_the_service_ends_its_jobs(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    adopt_orphans()
    before = kept_besides(service.worker.pool)[0]
    job = await service.jobs.submit(
        JobSpec(command=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 9; done"))
    )
    await until_output(job)
    async with job.follow() as log:
        await service.drain(0)
        assert kept_besides(service.worker.pool)[0] == before
        assert log.done
        assert "shutting_down" in repr(log.end)


@pytest.mark.slow
async def test_a_service_that_is_killed_takes_its_jobs_along(backend: str) -> None:
    program = textwrap.dedent(f"""
        import asyncio, streamer
        from streamer.compose import build
        from streamer.model.job import JobSpec
        async def main():
            config = {{"sandbox": {{"backend": {backend!r}, "allow_command": True}}}}
            async with build(config) as service:
                job = await service.jobs.submit(JobSpec(command=("sh", "-c",
                    "setsid sleep 600 & trap '' TERM; echo up; while :; do sleep 9; done")))
                print(service.worker.pool.folder.path, flush=True)
                async for event in job.events():
                    if event.kind == "output":
                        print("up", flush=True)
        asyncio.run(main())
    """)
    adopt_orphans()
    before = descendants()
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert server.stdout is not None
    try:
        folder = (await server.stdout.readline()).decode().strip()
        assert await server.stdout.readline() == b"up\n"
        assert len(descendants()) > len(before) + 2
    finally:
        server.kill()
        await server.wait()
    deadline = asyncio.get_running_loop().time() + 5
    while descendants() != before and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    assert descendants() == before
    remove_tree(Path(folder))


@pytest.mark.parametrize("at", range(8))
async def test_a_pipe_that_cannot_be_made_loses_no_descriptor(
    open_service: OpenService, need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    service = await open_service(need("plain"))
    await run_job(service, command=("true",))
    files = descriptors()
    made, real = 0, os.pipe2

    def pipe2(flags: int) -> tuple[int, int]:
        nonlocal made
        made += 1
        if made == at:
            raise OSError(24, "Too many open files")
        return real(flags)

    monkeypatch.setattr(os, "pipe2", pipe2)
    ran = await run_job(service, command=("true",), stdin=b"x")
    failed = ran.verdict in ("error internal", "error sandbox_error")
    assert failed or ran.verdict == "exited 0"
    assert failed == (1 <= at <= made)
    assert descriptors() == files

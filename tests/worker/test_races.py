"""Ends that race: one terminal event for each job, and nothing is left of hundreds of jobs."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from streamer.compose import Parts
from streamer.engine.interface import Signal
from streamer.errors import StreamerError
from streamer.model.job import JobSpec
from tests.conftest import OpenService
from tests.running import adopt_orphans, ended, kept_besides, program, run_job, script

PROGRAMS = (
    ("true",),
    ("sh", "-c", "exit 3"),
    ("sh", "-c", "sleep 0.0$(( $$ % 10 )); echo x"),
    ("sh", "-c", "kill -9 $$"),
    ("sh", "-c", "setsid sleep 600 & sleep 600 & echo x"),
    ("sh", "-c", "trap '' TERM; while :; do sleep 9; done"),
    ("sh", "-c", "yes | head -c 300000"),
    ("no-such-command",),
    ("cat",),
)
CAUSES = {"exited", "signaled", "cancelled", "wall_time", "output_limit"}


async def one_of_many(service: Parts, dice: random.Random) -> str:
    """Run a job, interfere once at a random moment, and return how it ended."""
    job = await service.jobs.submit(
        JobSpec(
            command=dice.choice(PROGRAMS),
            interactive=True,
            files=(script("f", "x" * dice.choice((0, 10, 100_000))),),
            limits={"wall_time_s": dice.choice((0.1, 0.3)), "output_bytes": 200_000},
        )
    )
    act = dice.choice(("cancel", "cancel", "kill", "stop", "input", "nothing"))
    moment = dice.random() * 0.05

    async def interfere() -> None:
        await asyncio.sleep(moment)
        try:
            match act:
                case "cancel":
                    await job.cancel()
                case "kill":
                    await service.engine.send(job.id, Signal(9))
                case "stop":
                    await service.engine.send(job.id, Signal(19))
                case "input":
                    await job.write(b"y" * 70_000)
                    await job.end_input()
        except StreamerError:
            pass  # it was over already

    ran, _ = await asyncio.gather(ended(job), interfere())
    return ran.complete.reason


@pytest.mark.slow
async def test_hundreds_of_racing_ends_leave_one_verdict_each_and_nothing_else(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend, queue={"concurrency": 8})
    assert service.worker.pool is not None
    await run_job(service, command=("true",))
    adopt_orphans()
    left, notes = kept_besides(service.worker.pool), firejail_notes()
    dice = random.Random(20261124)
    reasons = await asyncio.gather(*(one_of_many(service, dice) for _ in range(120)))
    assert set(reasons) <= CAUSES
    assert {"exited", "cancelled"} <= set(reasons)
    assert kept_besides(service.worker.pool) == left
    assert list((service.worker.pool.folder.path / "jobs").iterdir()) == []
    if backend == "firejail":
        of_ended = {pid for pid in firejail_notes() - notes if not Path("/proc", pid).exists()}
        assert of_ended == set()


def firejail_notes() -> set[str]:
    """Return the names that firejail keeps of running sandboxes on this host."""
    folder = Path("/run/firejail/sandbox")
    return set(os.listdir(folder)) if os.access(folder, os.R_OK) else set()


async def test_no_zombie_is_left(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    for command in PROGRAMS[:5]:
        await run_job(service, command=command)
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            assert Path("/proc", child, "stat").read_text().rpartition(")")[2].split()[0] != "Z"


async def test_jobs_cannot_see_each_other(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend, queue={"concurrency": 2})
    first = await service.jobs.submit(
        JobSpec(
            command=("sh", "-c", "echo secret-7a9 > note; sleep 600", "secret-7a9"),
            env={"S": "secret-7a9"},
        )
    )
    async with first.follow() as log:
        while (await first.view()).state != "running":
            await log.wait(log.last_id)
    second = await run_job(
        service,
        **program("""
            import glob, os
            secret = b"secret" + b"-7a9"
            for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
                try:
                    if secret in open(path, "rb").read():
                        print(path)
                except OSError:
                    pass
            siblings = os.path.join(os.environ["HOME"], "..", "*", "note")
            print(*glob.glob(siblings), *glob.glob("/tmp/streamer-*/jobs/*/note"), end="")
        """),
    )
    await first.cancel()
    await ended(first)
    if backend == "plain" and os.geteuid() != 0:
        # Both run as the service's user and may read each other's files, but not each other's /proc.
        assert "/proc" not in second.out
        return
    assert second.out == ""

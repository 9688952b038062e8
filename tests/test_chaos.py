"""A short run of `benchmarks/chaos.py`, with each kind of trouble once or more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import chaos
from tests.tools import tool

ROOT = Path(__file__).parents[1]


def lost(reason: str, *workers: str) -> chaos.Task:
    task = chaos.Task("job0", 1, 0.0, 1, job_id="id", submitted_at=10.0, over_at=20.0)
    task.workers.update(workers)
    task.told[0].append(chaos.Event(1, "error", {"code": reason, "message": ""}))
    return task


def again(*workers: str) -> chaos.Task:
    """Return a job whose first attempt was lost, and which was then seen at these workers."""
    task = lost("exited", *workers)
    task.told[0].insert(0, chaos.Event(0, "status", {"attempt": 2, "reason": "worker_lost"}))
    return task


@pytest.mark.parametrize(
    ("task", "trouble", "explained"),
    [
        (lost("worker_lost", "worker1"), ("worker killed", "worker1", 12.0, 13.0), True),
        (lost("worker_lost", "worker1"), ("worker killed", "worker1", 12.0, None), True),
        (lost("worker_lost", "worker1"), ("Redis killed", "redis", 12.0, 13.0), True),
        (lost("worker_lost"), ("worker killed", "worker2", 12.0, 13.0), True),
        (lost("shutting_down", "worker1"), (chaos.ASKED, "worker1", 12.0, 13.0), True),
        (lost("worker_lost", "worker1"), ("worker killed", "worker2", 12.0, 13.0), False),
        (lost("worker_lost", "worker1"), ("API node killed", "api0", 12.0, 13.0), False),
        (lost("worker_lost"), ("API node killed", "api0", 12.0, 13.0), False),
        (lost("worker_lost", "worker1"), ("worker killed", "worker1", 21.0, 22.0), False),
        (lost("worker_lost", "worker1"), ("worker killed", "worker1", 2.0, 5.0), False),
        (lost("worker_lost", "worker1"), (chaos.ASKED, "worker1", 12.0, 13.0), False),
        (lost("shutting_down", "worker1"), ("worker killed", "worker1", 12.0, 13.0), False),
        (again("worker1"), ("worker killed", "worker2", 12.0, 13.0), True),
        (again("worker1"), ("API node killed", "api0", 12.0, 13.0), False),
        (again("worker1", "worker2"), ("worker killed", "worker0", 12.0, 13.0), False),
        (lost("exited", "worker1"), ("API node killed", "api0", 12.0, 13.0), True),
    ],
)
def test_a_job_that_is_lost_though_its_worker_had_no_trouble_is_a_fault(
    task: chaos.Task, trouble: tuple[str, str, float, float | None], *, explained: bool
) -> None:
    assert (chaos.lost_without_trouble(task, [chaos.Trouble(*trouble)], 3.0) == []) == explained


@pytest.mark.slow
@pytest.mark.timeout(480)
async def test_no_promise_is_broken_by_lost_workers_nodes_and_servers(
    need: Callable[[str], str],
) -> None:
    need("bwrap")
    for name in ("redis-server", "ip", "unshare", "nsenter"):
        tool(name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.chaos", "--jobs", "150", "--lease-s", "3"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()

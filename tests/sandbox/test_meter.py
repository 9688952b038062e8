"""Measure a run with its control group, here with made-up files of version 2."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.cgroups.v1 import CgroupV1
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.drivers.protocol import GROUP_MEMORY, GROUP_SHARE
from streamer.sandbox.meter import Meter
from streamer.sandbox.pool import done_by
from streamer.sandbox.shape import RunEnd


async def test_a_late_notice_of_an_earlier_runs_kill_ends_no_other(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("max 3\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 0\n")
    ran_out = asyncio.Event()
    group = CgroupV2((tmp_path,))
    meter = Meter(group, ran_out, Limits(cpu_time_s=1000))
    passing = asyncio.create_task(meter.limit_passed())
    ran_out.set()
    async with asyncio.timeout(5):
        while ran_out.is_set():
            await asyncio.sleep(0)
    assert not passing.done()
    events.write_text("max 4\noom_kill 2\n")
    ran_out.set()
    assert await asyncio.wait_for(passing, 5) == "memory"
    group.close()


def test_the_group_counts_time_that_no_init_has_seen(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    usage = tmp_path / "cpu.stat"
    usage.write_text("usage_usec 1000\n")
    group = CgroupV2((tmp_path,))
    meter = Meter(group, asyncio.Event(), Limits())
    usage.write_text("usage_usec 8000\n")
    for seen, told in ((5000, 7000), (7500, 7500)):
        end = meter.judged(RunEnd(0, None, seen, 4096, 9000), None)
        assert (end.cpu_time_us, end.peak_memory_bytes) == (told, 4096)
    group.close()


def test_a_group_that_does_not_account_swap_leaves_memory_to_the_init(tmp_path: Path) -> None:
    groups: list[tuple[Cgroup, str]] = [
        (CgroupV2((tmp_path,)), "memory.swap.max"),
        (CgroupV1((tmp_path,) * 3), "memory.memsw.limit_in_bytes"),
    ]
    for group, name in groups:
        assert not done_by(group) & GROUP_MEMORY
        (tmp_path / name).touch()
        assert done_by(group) & GROUP_MEMORY
        group.close()


def test_a_group_without_the_controller_leaves_sharing_to_the_init(tmp_path: Path) -> None:
    group = CgroupV2((tmp_path,))
    assert not done_by(group) & GROUP_SHARE
    (tmp_path / "cpu.weight").touch()
    assert done_by(group) & GROUP_SHARE
    assert done_by(None) == 0
    group.close()

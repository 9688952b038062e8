"""Measure a run with its control group, here with made-up files of version 2."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streamer.model.job import Limits
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.meter import Meter


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

"""Measure a run with its control group, here with made-up files of version 2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import Cgroup
from streamer.sandbox.cgroups.v1 import CgroupV1
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.drivers.protocol import GROUP_MEMORY, GROUP_SHARE, GROUP_TIME
from streamer.sandbox.meter import Alarm, Meter
from streamer.sandbox.pool import done_by
from streamer.sandbox.shape import RunEnd


async def test_a_late_notice_of_an_earlier_runs_kill_ends_no_other(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("max 3\noom_kill 1\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 0\n")
    ran_out = Alarm()
    group = CgroupV2((tmp_path,))
    meter = Meter(group, ran_out, Limits(cpu_time_s=1000))
    passed = meter.watch()
    ran_out.set()
    assert not ran_out.is_set()
    assert not passed.done()
    events.write_text("max 4\noom_kill 2\n")
    ran_out.set()
    assert await asyncio.wait_for(passed, 20) == "memory"
    group.close()


def test_the_group_counts_time_that_no_init_has_seen(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    usage = tmp_path / "cpu.stat"
    usage.write_text("usage_usec 1000\n")
    group = CgroupV2((tmp_path,))
    meter = Meter(group, Alarm(), Limits())
    usage.write_text("usage_usec 8000\n")
    for seen, told in ((5000, 7000), (7500, 7500)):
        end = meter.judged(RunEnd(0, None, seen, 4096, 9000), None)
        assert (end.cpu_time_us, end.peak_memory_bytes) == (told, 4096)
    group.close()


def test_a_group_that_does_not_account_swap_leaves_memory_to_the_init(tmp_path: Path) -> None:
    groups: list[tuple[Callable[[], Cgroup], str]] = [
        (lambda: CgroupV2((tmp_path,)), "memory.swap.max"),
        (lambda: CgroupV1((tmp_path,) * 3), "memory.memsw.limit_in_bytes"),
    ]
    for group, name in groups:
        assert not done_by(group()) & GROUP_MEMORY
        (tmp_path / name).touch()
        assert done_by(group()) & GROUP_MEMORY
        (tmp_path / name).unlink()


def test_a_group_without_the_controller_leaves_sharing_to_the_init(tmp_path: Path) -> None:
    assert not done_by(CgroupV2((tmp_path,))) & GROUP_SHARE
    (tmp_path / "cpu.weight").touch()
    group = CgroupV2((tmp_path,))
    assert done_by(group) & GROUP_SHARE
    assert done_by(group) & GROUP_TIME
    assert done_by(None) == 0


async def test_a_notice_before_the_watch_counts_and_one_after_it_does_not(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 0\n")
    early, late = Alarm(), Alarm()
    group = CgroupV2((tmp_path,))
    meters = [Meter(group, alarm, Limits()) for alarm in (early, late)]
    events.write_text("oom_kill 1\n")
    early.set()
    passed = [meter.watch() for meter in meters]
    meters[1].unwatch()
    late.set()
    assert await asyncio.wait_for(passed[0], 20) == "memory"
    assert not passed[1].done()
    group.close()


async def test_cpu_time_that_cannot_be_read_fails_the_watch(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    usage = tmp_path / "cpu.stat"
    usage.write_text("usage_usec 0\n")
    group = CgroupV2((tmp_path,))
    meter = Meter(group, Alarm(), Limits(cpu_time_s=0.1))
    group.close()  # what it had open
    usage.unlink()
    with pytest.raises(OSError, match=r"cpu\.stat"):
        await asyncio.wait_for(meter.watch(), 20)
    group.close()


async def test_cpu_time_is_looked_at_as_soon_as_all_processors_can_have_used_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.meter.PROCESSORS", 1000)
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    usage = tmp_path / "cpu.stat"
    usage.write_text("usage_usec 0\n")
    group = CgroupV2((tmp_path,))
    passed = Meter(group, Alarm(), Limits(cpu_time_s=300)).watch()
    usage.write_text("usage_usec 300000000\n")
    assert await asyncio.wait_for(passed, 60) == "cpu_time"
    group.close()


async def test_the_time_of_a_run_that_is_over_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.sandbox.meter.CPU_WATCH_S", 0.01)
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    usage = tmp_path / "cpu.stat"
    usage.write_text("usage_usec 0\n")
    group = CgroupV2((tmp_path,))
    over, later = (Meter(group, Alarm(), Limits(cpu_time_s=0.01)) for _ in range(2))
    passed = over.watch()
    over.unwatch()
    usage.write_text("usage_usec 20000\n")
    assert await asyncio.wait_for(later.watch(), 20) == "cpu_time"
    assert not passed.done()
    group.close()

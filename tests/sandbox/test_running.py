"""Follow a program whose driver or limits fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.drivers.driver import Driver
from streamer.sandbox.meter import Alarm, Meter
from streamer.sandbox.running import Running
from streamer.sandbox.shape import RunEnd


class Endless:
    """As much of a driver as is followed; its program ends when it is told."""

    def __init__(self) -> None:
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over: asyncio.Future[RunEnd] = asyncio.get_running_loop().create_future()

    async def end(self) -> RunEnd:
        return await self.over


@pytest.fixture
def alarm() -> Alarm:
    return Alarm()


@pytest.fixture
async def meter(tmp_path: Path, alarm: Alarm) -> AsyncIterator[Meter]:
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 0\n")
    group = CgroupV2((tmp_path,))
    made = Meter(group, alarm, Limits())
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    yield made
    group.close()


async def nothing() -> None:
    pass


def follow(driver: Endless, meter: Meter, kill: Any) -> Running:
    return Running.follow(cast("Driver", driver), meter, kill, nothing)


async def test_a_kill_for_a_limit_that_fails_is_told_to_those_who_wait(
    meter: Meter, alarm: Alarm
) -> None:
    async def kill() -> None:
        raise SandboxFailure("it does not die")

    running = follow(Endless(), meter, kill)
    alarm.set()
    for waited in (running.exited, running.ended):
        with pytest.raises(SandboxFailure, match="it does not die"):
            await asyncio.wait_for(waited, 20)
    await asyncio.wait_for(running.close(), 20)


async def test_a_limit_that_cannot_be_watched_is_told_too(
    meter: Meter, alarm: Alarm, tmp_path: Path
) -> None:
    running = follow(Endless(), meter, nothing)
    meter._cgroup.close()  # what it had open
    (tmp_path / "memory.events").unlink()
    alarm.set()
    with pytest.raises(OSError, match=r"memory\.events"):
        await asyncio.wait_for(running.ended, 20)
    await asyncio.wait_for(running.close(), 20)


async def test_a_limit_kills_and_is_the_reason_unless_the_program_has_exited(
    meter: Meter, alarm: Alarm, tmp_path: Path
) -> None:
    """Where the kernel killed a process before the end, we may hear of it only afterwards."""
    for exits_first, kills_by_then, cause in (
        (False, 0, "memory"),
        (True, 0, "killed"),
        (True, 1, "memory"),
    ):
        driver = Endless()
        killed = asyncio.Event()

        async def kill(driver: Endless = driver, killed: asyncio.Event = killed) -> None:
            killed.set()
            driver.over.set_result(RunEnd(0, "killed", 1, 1, 1))

        alarm.clear()
        (tmp_path / "memory.events").write_text(f"oom_kill {kills_by_then}\n")
        running = follow(driver, meter, kill)
        if exits_first:
            driver.exited.set_result(None)
            await running.exited
        (tmp_path / "memory.events").write_text("oom_kill 1\n")
        alarm.set()
        await asyncio.wait_for(killed.wait(), 20)
        end = await asyncio.wait_for(running.ended, 20)
        assert end.cause == cause
        await running.close()
        assert alarm.hear is None


async def test_a_limit_that_is_passed_when_all_is_dead_kills_nothing(
    meter: Meter, alarm: Alarm
) -> None:
    driver = Endless()
    killed: list[int] = []
    clearing, cleared = asyncio.Event(), asyncio.Event()

    async def clear() -> None:
        clearing.set()
        await cleared.wait()

    async def kill() -> None:
        killed.append(1)

    running = Running.follow(cast("Driver", driver), meter, kill, clear)
    driver.over.set_result(RunEnd(0, None, 1, 1, 1))
    await asyncio.wait_for(clearing.wait(), 20)
    alarm.set()
    cleared.set()
    assert (await asyncio.wait_for(running.ended, 20)).cause is None
    assert killed == []
    await running.close()


async def test_nothing_is_watched_after_the_end(meter: Meter, alarm: Alarm) -> None:
    driver = Endless()
    running = follow(driver, meter, nothing)
    driver.over.set_result(RunEnd(0, None, 1, 1, 1))
    await asyncio.wait_for(running.ended, 20)
    await running.close()
    assert alarm.hear is None


async def test_what_is_left_is_cleared_only_after_the_kill(meter: Meter, alarm: Alarm) -> None:
    driver = Endless()
    order: list[str] = []

    async def kill() -> None:
        driver.over.set_result(RunEnd(0, "killed", 1, 1, 1))
        for _ in range(10):
            await asyncio.sleep(0)
        order.append("killed")

    async def clear() -> None:
        order.append("cleared")

    running = Running.follow(cast("Driver", driver), meter, kill, clear)
    await asyncio.sleep(0)
    alarm.set()
    await asyncio.wait_for(running.ended, 20)
    assert order == ["killed", "cleared"]
    await running.close()


class Slow(Endless):
    """One that takes its time to be given up."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up = asyncio.Event()

    async def end(self) -> RunEnd:
        try:
            return await self.over
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            self.given_up.set()


async def test_whoever_closes_it_waits_until_nothing_follows_any_more(meter: Meter) -> None:
    driver = Slow()
    running = follow(driver, meter, nothing)
    await asyncio.sleep(0)
    await asyncio.wait_for(running.close(), 20)
    assert driver.given_up.is_set()


async def test_nothing_follows_a_program_whose_kill_has_failed(meter: Meter, alarm: Alarm) -> None:
    async def kill() -> None:
        raise SandboxFailure("it does not die")

    driver = Slow()
    running = follow(driver, meter, kill)
    alarm.set()
    with pytest.raises(SandboxFailure, match="it does not die"):
        await asyncio.wait_for(running.ended, 20)
    await asyncio.wait_for(driver.given_up.wait(), 20)
    await running.close()


async def test_an_exit_that_is_told_after_the_close_is_no_failure(meter: Meter) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, failure: failures.append(failure))
    driver = Endless()
    running = follow(driver, meter, nothing)
    await asyncio.sleep(0)
    await running.close()
    driver.exited.set_result(None)
    await asyncio.sleep(0)
    assert failures == []


async def test_an_init_that_was_killed_for_memory_costs_the_time_until_then(meter: Meter) -> None:
    driver = Endless()
    running = follow(driver, meter, nothing)
    driver.over.set_exception(SandboxFailure("the init ended"))
    end = await asyncio.wait_for(running.ended, 20)
    assert end.cause == "memory"
    assert end.wall_us > 0
    await running.close()

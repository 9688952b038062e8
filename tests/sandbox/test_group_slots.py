"""A group is kept from one sandbox to the next, and no sandbox is charged for an earlier one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

import streamer
from streamer.model.job import Limits
from streamer.sandbox.cgroups.cgroup import MOST_LEFT_BYTES, Cgroup
from streamer.sandbox.cgroups.files import GroupFiles, pids
from streamer.sandbox.cgroups.slots import GroupSlots
from streamer.sandbox.cgroups.tree import CgroupTree, cgroup_tree
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.meter import Alarm, Meter
from tests.running import adopt_orphans

INIT = Path(streamer.__file__).parent / "sandbox" / "init" / "streamer-init"
MIB = 1024 * 1024
SMALL = Limits(memory_bytes=64 * MIB, processes=8)
LARGE = Limits(memory_bytes=512 * MIB, processes=64)
FILL = f"x = bytearray({200 * MIB})\n"
"""Uses more memory than `SMALL` allows."""
FORK = "import os, time\nfor _ in range(40):\n    if os.fork() == 0: time.sleep(600)\n"
"""Starts more processes than `SMALL` allows."""
SPEND = "import time\nx = b'x' * 40_000_000\nwhile time.process_time() < 0.3: pass\n"


@pytest.fixture
def tree() -> Iterator[CgroupTree]:
    adopt_orphans()
    with cgroup_tree("auto", 12) as found:
        if found is None:
            pytest.skip("no cgroup is ours to divide: not root, and none is delegated")
        yield found


@pytest.fixture
def slots(tree: CgroupTree) -> Iterator[GroupSlots]:
    with contextlib.closing(GroupSlots(tree, 1)) as slots:
        yield slots


@pytest.fixture
def peaks(tree: CgroupTree, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Keep groups also where the kernel cannot reset the peak; return whether it can."""
    release = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    if tree.level == "cgroup-v1" or release >= (6, 12):
        return True
    forget = CgroupV2.forget
    monkeypatch.setattr(CgroupV2, "forget", lambda group: forget(group) or True)
    return False


def lent(
    slots: GroupSlots, on_oom: Callable[[], None] = lambda: None
) -> AbstractAsyncContextManager[Cgroup]:
    return slots.lend(on_oom)


def command(group: Cgroup, code: str) -> Sequence[str]:
    return (str(INIT), "enter", *group.entry, "--", sys.executable, "-IS", "-c", code)


def run(group: Cgroup, code: str) -> int:
    """Run a program in a group to its end, while the loop stands still; return its exit code."""
    return subprocess.run(command(group, code), check=False, stderr=subprocess.DEVNULL).returncode


async def test_a_group_is_lent_again_as_if_it_were_new(
    tree: CgroupTree, slots: GroupSlots, *, peaks: bool
) -> None:
    async with lent(slots) as first:
        assert await first.limit(SMALL)
        assert run(first, SPEND) == 0
        assert first.cpu_time_us() >= 300_000
        if peaks:
            assert (first.peak_memory_bytes() or 0) > 40_000_000
    async with lent(slots) as second:
        assert second is first
        assert second.cpu_time_us() == 0
        assert second.memory_bytes() <= MOST_LEFT_BYTES
        if peaks:
            assert (second.peak_memory_bytes() or 0) <= MOST_LEFT_BYTES
        # What starts the sandbox is not under the limits of the last run.
        assert run(second, FILL + "raise SystemExit(3)") == 3
        assert run(second, FORK + "raise SystemExit(4)") == 4
        second.kill()
        assert await second.clear()
        assert run(second, SPEND) == 0
        assert second.cpu_time_us() >= 300_000
        assert [len(list(root.glob("*/"))) for root in tree.roots] == [1] * len(tree.roots)


@pytest.mark.usefixtures("peaks")
async def test_each_has_its_own_limits(slots: GroupSlots) -> None:
    for limits in (LARGE, SMALL, LARGE):
        async with lent(slots) as group:
            assert await group.limit(limits)
            assert (run(group, FILL) == -signal.SIGKILL) == (limits is SMALL)
            # A fork that is refused ends it with a traceback.
            assert run(group, FORK + "raise SystemExit(3)") == (1 if limits is SMALL else 3)
            group.kill()
            assert await group.clear()


@pytest.mark.usefixtures("peaks")
async def test_a_kill_for_memory_is_that_of_its_own_sandbox(slots: GroupSlots) -> None:
    ran_out, told = Alarm(), list[str]()
    async with lent(slots, lambda: told.append("first")) as first:
        assert await first.limit(SMALL)
        meter = Meter(first, Alarm(), SMALL)
        assert run(first, FILL) == -signal.SIGKILL
        assert meter.out_of_memory
    # The loop has not yet read the notice.
    async with lent(slots, ran_out.set) as second:
        assert second is first
        meter = Meter(second, ran_out, SMALL)
        for _ in range(3):
            await asyncio.sleep(0)  # a notice that is there would be read
        assert not ran_out.is_set()
        assert not meter.out_of_memory
        assert await second.limit(SMALL)
        passed = meter.watch()
        assert run(second, FILL) == -signal.SIGKILL
        assert await asyncio.wait_for(passed, 30) == "memory"
    assert told == []


@pytest.mark.usefixtures("peaks")
async def test_what_an_earlier_one_left_in_the_page_cache_is_not_charged(
    slots: GroupSlots, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    code = f"open({str(big)!r}, 'wb').write(bytes({100 * MIB}))"
    async with lent(slots) as first:
        assert await first.limit(LARGE)
        assert run(first, code) == 0
        assert first.memory_bytes() > 50 * MIB
    async with lent(slots) as second:
        assert second.folders != first.folders
        assert second.memory_bytes() <= MOST_LEFT_BYTES
        assert await second.limit(SMALL)
        assert run(second, SPEND) == 0
        assert second.oom_kills() == 0
    assert big.exists()
    assert [folder for folder in first.folders if folder.exists()] == []


ALIVE = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)"
UNREAPED = (
    "import os\nif os.fork() == 0: os._exit(0)\nos.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)"
)


@pytest.mark.usefixtures("peaks")
@pytest.mark.parametrize("left", [ALIVE, UNREAPED], ids=["alive", "unreaped"])
async def test_a_group_with_a_process_left_in_it_is_not_lent_again(
    slots: GroupSlots, left: str
) -> None:
    async with lent(slots) as first:
        assert run(first, left) == 0
        assert first.processes() == 1
        held = [os.pidfd_open(pid) for pid in pids(first.folders[0])]
    for pidfd in held:
        assert select.select([pidfd], [], [], 0)[0], "it is dead"
        os.close(pidfd)
    async with lent(slots) as second:
        assert second.folders != first.folders
        assert second.processes() == 0
    assert [folder for folder in first.folders if folder.exists()] == []


def _remove(folder: Path) -> None:
    folder.rmdir()


def _make_anew(folder: Path) -> None:
    folder.rmdir()
    folder.mkdir()


CHANGES = {"memory.oom.group": "0", "memory.oom_control": "1", "cpu.shares": "2"}


def _change(folder: Path) -> None:
    for name, text in CHANGES.items():
        with contextlib.suppress(OSError):
            (folder / name).write_text(text)


@pytest.mark.usefixtures("peaks")
@pytest.mark.parametrize("change", [_remove, _make_anew, _change])
@pytest.mark.parametrize("number", range(4))
async def test_a_group_that_others_have_changed_is_replaced(
    slots: GroupSlots,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path], None],
    number: int,
) -> None:
    for _ in range(2):  # its files are open then
        async with lent(slots) as first:
            pass
    if number >= len(first.folders):
        pytest.skip("there are not so many hierarchies")
    changed = first.folders[number]
    if change is _change and not any((changed / name).exists() for name in CHANGES):
        pytest.skip("nothing is set there but limits")
    change(changed)
    async with lent(slots) as second:
        assert second.folders != first.folders
        assert await second.limit(SMALL)
        assert run(second, SPEND) == 0
    assert f"the cgroup {first}" in caplog.text
    assert "replaced" in caplog.text
    assert [folder for folder in first.folders if folder.exists()] == []


@pytest.mark.usefixtures("peaks")
async def test_limits_that_others_have_set_do_not_last(slots: GroupSlots) -> None:
    async with lent(slots) as first:
        pass
    for name, text in (
        ("memory.limit_in_bytes", str(MIB)),
        ("memory.max", str(MIB)),
        ("pids.max", "0"),
    ):
        for folder in first.folders:
            if (folder / name).exists():
                (folder / name).write_text(text)
    async with lent(slots) as second:
        assert second is first
        assert run(second, FILL) == 0


@pytest.mark.usefixtures("peaks")
async def test_no_more_are_kept_than_there_are_places(tree: CgroupTree, slots: GroupSlots) -> None:
    async with lent(slots) as first, lent(slots) as second, lent(slots) as third:
        assert len({group.folders for group in (first, second, third)}) == 3
    for root in tree.roots:
        assert len(list(root.glob("*/"))) == 1


@pytest.mark.usefixtures("peaks")
async def test_a_limit_that_is_set_too_late_does_not_reach_the_next(
    slots: GroupSlots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go_on, begun, done = threading.Event(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(self: Cgroup, files: Sequence[GroupFiles], limits: Limits) -> bool:
        loop.call_soon_threadsafe(begun.set)
        assert threading.current_thread() is not threading.main_thread()
        go_on.wait(60)
        try:
            return set_limits(self, files, limits)
        finally:
            done.set()

    async with lent(slots) as first:
        # What is in use already is why the limit is set in a thread.
        assert run(first, f"open({str(tmp_path / 'f')!r}, 'wb').write(bytes(300_000))") == 0
        set_limits = type(first).set_limits
        monkeypatch.setattr(type(first), "set_limits", slow)
        # Enough for what the kernel cannot drop: with less, version 2 is not asked at all.
        too_late = Limits(memory_bytes=first.memory_bytes(), processes=1)
        setting = asyncio.create_task(first.limit(too_late))
        await begun.wait()
        setting.cancel()
        await asyncio.wait({setting})
    monkeypatch.undo()
    async with lent(slots) as second:
        go_on.set()
        assert await asyncio.to_thread(done.wait, 30)
        assert second.folders != first.folders
        assert run(second, FILL) == 0


async def test_a_group_whose_peak_cannot_be_reset_is_not_lent_again(
    slots: GroupSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(slots) as first:
        # As before Linux 6.12 in version 2.
        monkeypatch.setattr(type(first), "forget", lambda _: False)
    assert [folder for folder in first.folders if folder.exists()] == []
    async with lent(slots) as second:
        assert second.folders != first.folders


def test_a_peak_that_cannot_be_written_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("oom_kill 0\n")
    group = CgroupV2((tmp_path,))
    with contextlib.closing(group):
        assert group.forget()  # there is none
        (tmp_path / "memory.peak").write_text("5\n")
        assert group.forget()
        group.close()
        (tmp_path / "memory.peak").unlink()
        # The closest to a file that even root cannot open for writing.
        (tmp_path / "memory.peak").symlink_to("/proc/version")
        assert not group.forget()


def targets() -> list[str]:
    return sorted(os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.exists())


async def test_descriptors_do_not_become_more_and_end_with_the_tree(tmp_path: Path) -> None:
    before, found = len(targets()), []
    with cgroup_tree("auto", 12) as tree:
        if tree is None:
            pytest.skip("no cgroup is ours to divide: not root, and none is delegated")
        with contextlib.closing(GroupSlots(tree, 1)) as slots:
            for number in range(6):
                async with lent(slots) as group:
                    await group.limit(SMALL)
                    if number % 2:  # it is not lent again
                        big = tmp_path / str(number)
                        assert run(group, f"open({str(big)!r}, 'wb').write(bytes({9 * MIB}))") == 0
                    found.append(len(targets()))
    assert len(set(found[::2])) == len(set(found[1::2])) == 1
    assert len(targets()) == before


KEEPS = """
import asyncio
from streamer.sandbox.cgroups.slots import GroupSlots
from streamer.sandbox.cgroups.tree import cgroup_tree

async def main():
    with cgroup_tree("auto", 12) as tree:
        slots = GroupSlots(tree, 1)
        async with slots.lend(lambda: None) as group:
            pass
        print(*tree.roots, sep="\\0", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_the_kept_groups_of_a_killed_service_are_removed(tree: CgroupTree) -> None:
    other = subprocess.Popen([sys.executable, "-c", KEEPS], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    roots = [Path(root) for root in other.stdout.readline().strip().split("\0")]
    assert all(root.is_dir() for root in roots)
    other.kill()
    other.wait()
    other.stdout.close()
    with cgroup_tree("auto", 12):
        assert [root for root in roots if root.exists()] == []

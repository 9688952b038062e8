"""The groups of a root service's jobs in version 2: a template's user is admitted to its own only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import streamer
from streamer.sandbox.cgroups.files import pids
from streamer.sandbox.cgroups.slots import GroupSlots
from streamer.sandbox.cgroups.tree import CgroupTree, cgroup_tree
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.shape import Program
from tests.running import adopt_orphans
from tests.sandbox.forking import PROGRAM, SHAPE, need_forks
from tests.sandbox.templated import pool_of

INIT = str(Path(streamer.__file__).parent / "sandbox" / "init" / "streamer-init")
FIRST, SECOND = 61190, 61191
"""Users that no service lends."""


@pytest.fixture
def tree() -> Iterator[CgroupTree]:
    adopt_orphans()
    with cgroup_tree("auto", 12) as found:
        if found is None or not found.by_user:
            pytest.skip("needs a service of root with control groups of version 2")
        yield found


@pytest.fixture
def slots(tree: CgroupTree) -> Iterator[GroupSlots]:
    with contextlib.closing(GroupSlots(tree, 1)) as slots:
        yield slots


def moved(entry: Sequence[str], uid: int, groups: Sequence[Path]) -> Sequence[Path]:
    """Return the groups into which a user's process moves that was started with `entry`."""
    script = 'for group; do (echo 0 >"$group/cgroup.procs") 2>/dev/null && echo "$group"; done'
    user = (f"--uid={uid}", f"--gid={uid}")
    command = (INIT, "enter", *entry, *user, "--", "/bin/sh", "-c", script, "sh", *map(str, groups))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return [Path(line) for line in done.stdout.splitlines()]


async def test_a_template_may_move_to_the_groups_of_its_own_user_only(
    tree: CgroupTree, slots: GroupSlots
) -> None:
    async with (
        slots.lend(lambda: None, FIRST) as first,
        slots.lend(lambda: None, SECOND) as second,
        slots.lend(lambda: None) as other,
    ):
        entry = tree.template_entry(FIRST)
        own, foreign = first.folders[0], second.folders[0]
        everywhere = (tree.roots[0], own.parent, foreign.parent, foreign, other.folders[0], own)
        assert moved(entry, FIRST, everywhere) == [own]
        assert moved(entry, SECOND, everywhere) == []


async def test_a_job_may_move_nowhere(tree: CgroupTree, slots: GroupSlots) -> None:
    async with (
        slots.lend(lambda: None, FIRST) as first,
        slots.lend(lambda: None, SECOND) as second,
    ):
        tree.template_entry(FIRST)
        own = first.folders[0]
        others = [path for path in own.parent.iterdir() if path.is_dir() and path != own]
        assert len(others) == 1  # that of templates
        everywhere = (tree.roots[0], tree.roots[0].parent, own.parent, *others, *second.folders)
        assert moved(first.entry, FIRST, everywhere) == []


async def test_a_user_without_a_template_may_move_nowhere(
    tree: CgroupTree, slots: GroupSlots
) -> None:
    """Its next job may be one without isolation, which sees the groups."""
    async with slots.lend(lambda: None, FIRST) as first:
        own = first.folders[0]
    async with slots.lend(lambda: None) as group:
        everywhere = (own, own.parent, tree.roots[0], *own.parent.glob("*/"))
        assert moved(group.entry, FIRST, everywhere) == []


async def test_a_users_group_is_lent_again(tree: CgroupTree, slots: GroupSlots) -> None:
    async with slots.lend(lambda: None, FIRST) as first:
        first.forget = lambda: True  # type: ignore[method-assign]  # the kernel may not be able to
    async with slots.lend(lambda: None, SECOND) as second:
        assert second is not first
    async with slots.lend(lambda: None, FIRST) as again:
        assert again is first
        assert (again.folders[0] / "cgroup.procs").stat().st_uid == FIRST
        assert (again.folders[0] / "memory.max").stat().st_uid == os.geteuid()
        assert pids(again.folders[0]) == []
        assert {"memory", "pids"} <= set(
            (again.folders[0] / "cgroup.controllers").read_text().split()
        )
        assert again.folders[0].is_relative_to(tree.roots[0])


@pytest.fixture
def unified() -> Iterator[Path]:
    """A group of version 2, which need have no controllers, with a group in it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    roots = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"]
    if os.geteuid() != 0 or not roots:
        pytest.skip("only root may make groups, where version 2 is mounted")
    group = roots[0] / f"streamer-test-{os.getpid()}"
    inner = group / "inner"
    inner.mkdir(parents=True)
    try:
        yield group
    finally:
        inner.rmdir()
        group.rmdir()


@pytest.mark.parametrize("program", [None, PROGRAM], ids=["template", "forked"])
async def test_a_sandbox_is_made_in_its_group(
    unified: Path, need: Callable[[str], str], program: Program | None
) -> None:
    need("bwrap")
    if program is not None:
        need_forks()
    adopt_orphans()
    with pool_of(cgroup="off", forks=ForkBounds()) as pool:
        pool.forks.tried("bwrap", "python", "")
        for _ in range(2):
            pool.forks.wanted(SHAPE, program)
        sandbox = await pool.lend(SHAPE, program)
        (kept,) = pool.templates._kept.values()
        assert kept.template.program == program
        # It may move what it makes from the one to the other (cgroups(7)).
        assert kept.identity is not None
        (unified / "cgroup.procs").write_text(str(kept.template._hello.result()))
        for group in (unified, unified / "inner"):
            os.chown(group / "cgroup.procs", kept.identity.uid, -1)
        made = kept.template.sandbox(kept.template.plan, str(unified / "inner"), (), by_group=0)
        await made.come_up()
        assert pids(unified / "inner") == [made._wrapper.pid]
        await made.close()
        await sandbox.close()
        await pool.close()

"""What a pool sees to when a sandbox is opened: whose user it has, what a wrapper leaves or says."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from sandboxes.plain import Plain
from streamer.errors import SandboxFailure
from streamer.sandbox.shape import Shape
from streamer.spi import LaunchPlan, SandboxJob
from tests.sandbox.test_group_slots import targets
from tests.sandbox.test_sandbox import BACKENDS, LIMITS, lent, pool_of, told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to lend")
async def test_a_trial_has_a_user_though_jobs_have_all_of_theirs() -> None:
    shape = Shape("plain", LIMITS)
    with pool_of() as pool:
        users = pool._users
        assert users is not None
        async with contextlib.AsyncExitStack() as jobs:
            while users._free:
                await jobs.enter_async_context(users.lend())
            async with asyncio.timeout(20):
                await (await pool.lend(shape, for_trial=True)).close()


async def test_a_pool_that_is_closed_has_no_descriptor_left(need: Callable[[str], str]) -> None:
    before = targets()
    with pool_of() as pool:
        async with lent(pool, need("plain")) as sandbox:
            await told(sandbox, "true")  # its group is kept for the next one
    assert targets() == before


class Littering(Plain):
    """Its wrapper puts files into the workspace."""

    name: ClassVar[str] = "littering"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        plan = super().plan(job, workspace)
        start = ("/bin/sh", "-c", 'touch .its own; exec "$@"', "sh")
        return replace(plan, argv=(*start, *plan.argv), litter=(".its", ".never"))


async def test_what_a_wrapper_says_that_it_leaves_is_removed(
    monkeypatch: pytest.MonkeyPatch, need: Callable[[str], str]
) -> None:
    need("plain")
    monkeypatch.setitem(BACKENDS, "littering", Littering())
    with pool_of() as pool:
        async with lent(pool, "littering") as sandbox:
            assert [entry.path for entry in (await sandbox.list_files()).entries] == ["own"]


LATE = """
import os, socket
with socket.socket(fileno=0) as service:
    service.shutdown(socket.SHUT_WR)
    while service.recv(100):
        pass
os.write(2, b"out of luck")
os._exit(3)
"""


class Late(Plain):
    """Says why it fails when it is given up, and not before."""

    name: ClassVar[str] = "late"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        argv = ("/usr/bin/python3", "-I", "-S", "-c", LATE)
        return LaunchPlan(argv, start_as=job.identity)


async def test_what_a_wrapper_says_at_its_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "late", Late())
    with pool_of() as pool:
        with pytest.raises(SandboxFailure, match=r"\(exit 3\): out of luck$"):
            await pool.lend(Shape("late", LIMITS))
        await pool.close()

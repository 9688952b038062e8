"""A program is made ready ahead: in every sandbox of ours, with and without groups."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.stdio import Stdio
from tests.running import descendants
from tests.sandbox.test_held import LIMITS, cgroup, finish, hold, name, opened, program_of, run_of

__all__ = ["cgroup", "name"]

WRITES = ("sh", "-c", "echo up > file; cat; cat file")


SPINS = ("sh", "-c", "(i=0; while [ $i -lt 60000 ]; do i=$((i + 1)); done); echo done")
"""Works in a child that is there at once, for about 0.1 s of CPU time."""


async def make_ready(sandbox: Sandbox, argv: tuple[str, ...], limits: Limits = LIMITS) -> None:
    """Make a program ready, and wait until its process is there."""
    stdio = Stdio.pipes(with_input=True)
    await sandbox.make_ready(run_of(sandbox, argv, stdio, limits=limits))
    await sandbox.use()
    assert sandbox.waits


async def test_nothing_of_it_is_executed_before_it_runs(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        before = descendants()
        await make_ready(sandbox, WRITES)
        assert "sh" not in {called for pid, called in descendants().items() if pid not in before}
        assert not (await sandbox.list_files()).entries
        end, out = await finish(sandbox, WRITES, given=b"given\n")
        assert (end.cause, end.status, out) == (None, 0, "given\nup\n")


async def test_it_says_why_it_cannot_be_executed(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await make_ready(sandbox, ("./missing",))
        end, out = await finish(sandbox, ("./missing",))
        assert os.waitstatus_to_exitcode(end.status) == 127
        assert out == "./missing: No such file or directory\n"


async def test_another_is_started_if_it_is_killed_before(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        before = descendants()
        await make_ready(sandbox, WRITES)
        os.kill(program_of(before, ""), signal.SIGKILL)
        async with asyncio.timeout(20):
            await asyncio.wait({sandbox._driver.exited})
        end, out = await finish(sandbox, WRITES)
        assert (end.cause, end.status, out) == (None, 0, "up\n")


async def test_one_at_a_time_is(name: str, cgroup: str) -> None:
    async with opened(name, cgroup) as sandbox:
        await make_ready(sandbox, WRITES)
        with pytest.raises(SandboxFailure, match="another program is held"):
            await make_ready(sandbox, WRITES)


async def test_the_time_in_which_it_waits_is_none_in_which_it_may_have_run(
    need: Callable[[str], str],
) -> None:
    """From the age of a process an init without a group estimates what it has not seen."""
    need("plain")
    limits = Limits(wall_time_s=60, cpu_time_s=1)
    async with AsyncExitStack() as held:
        ready, warm, other = [
            await held.enter_async_context(opened("plain", "off", limits)) for _ in range(3)
        ]
        await make_ready(ready, SPINS, limits)
        await hold(warm, SPINS, limits=limits)
        await finish(other, ("sleep", "5"), limits=limits)
        for sandbox in (ready, warm):
            end, out = await finish(sandbox, SPINS, limits=limits)
            assert (end.cause, end.status, out) == (None, 0, "done\n")

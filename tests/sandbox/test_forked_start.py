"""How a program that is forked begins: with nothing that was looked at, or left over, before its job."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from streamer.model.job import SourceFile
from streamer.sandbox.pool import Pool
from streamer.sandbox.stdio import Stdio
from tests.sandbox.forking import PROGRAM, SHAPE, Customize, forking_pool, ran, ran_in
from tests.sandbox.templated import LIMITS


@pytest.fixture
async def pool(need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with forking_pool() as opened:
        yield opened


@pytest.mark.parametrize("path", ["/tmp", "/var/tmp", "/dev/shm", "/proc", "."])
async def test_what_is_each_jobs_own_is_seen_by_the_program_of_the_job(
    pool: Pool, customized: Customize, path: str
) -> None:
    what, shape = customized(f"import os, sys; sys.seen = os.stat({path!r}).st_dev")
    pool.forks.wanted(shape, what)
    code = f"import os, sys; print(sys.seen == os.stat({path!r}).st_dev)"
    assert await ran(pool, code, what, shape) == ("forked", "True\n")


async def test_the_call_in_which_it_waits_leaves_errno_alone(
    pool: Pool, customized: Customize
) -> None:
    what, shape = customized(
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "ctypes.set_errno(7)\n"
        "sys.seen = libc.access(b'/tmp', 0), ctypes.get_errno()\n"
    )
    pool.forks.wanted(shape, what)
    assert await ran(pool, "import sys; print(sys.seen)", what, shape) == ("forked", "(0, 7)\n")


SIZE: Final = "print([line for line in open('/proc/self/status') if line.startswith('VmSize')])"


async def test_what_its_init_has_received_takes_no_memory_of_it(pool: Pool) -> None:
    sizes = []
    for files in ((), (SourceFile("large", bytes(2**20)),)):
        sandbox = await pool.lend(SHAPE, PROGRAM)
        assert sandbox.way == "forked"
        sizes.append(await ran_in(sandbox, SIZE, more=files))
        await sandbox.close()
    assert sizes[0] == sizes[1]


# -- nobody is beside it --------------------------------------------------------------------

SEIZE, INTERRUPT, CONT, DETACH, GET_EVENT = 0x4206, 0x4207, 7, 17, 0x4201
TRACE_VFORK, TRACE_EXIT = 1 << 2, 1 << 6
EVENT_VFORK, EVENT_EXIT, EVENT_STOP = 2, 6, 128
WALL: Final = 0x40000000
READ, PAUSE = 0, 34
"""System calls, on x86_64."""


def ptrace(request: int, pid: int, data: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(request, pid, None, data) == 0, os.strerror(ctypes.get_errno())


async def stopped(pid: int) -> int:
    """Wait until a process that is traced has stopped; return why (ptrace(2))."""
    async with asyncio.timeout(20):
        while (found := os.waitpid(pid, os.WNOHANG | WALL)) == (0, 0):  # noqa: ASYNC222 - no wait
            await asyncio.sleep(0)
    return found[1] >> 16


async def waits_in(pid: int, *calls: int) -> list[str]:
    """Wait until a process sleeps in one of some system calls; return that and its arguments."""
    async with asyncio.timeout(20):
        while (call := Path(f"/proc/{pid}/syscall").read_text().split())[0] not in map(str, calls):
            await asyncio.sleep(0)
    return call


@pytest.mark.skipif(
    os.geteuid() != 0 or platform.machine() != "x86_64",
    reason="only root may trace an init, and the numbers of calls are those of x86_64",
)
async def test_it_begins_when_the_leader_of_its_session_is_gone(pool: Pool) -> None:
    """Otherwise it could stop or kill it, and the init with it."""
    sandbox = await pool.lend(SHAPE, PROGRAM)
    assert sandbox.way == "forked"
    file = SourceFile("main.py", b"import signal; signal.pause()")
    await sandbox.put_files((file,), LIMITS)
    driver: Any = sandbox._driver
    init = driver._wrapper.pid
    stdio = Stdio.null()
    ptrace(SEIZE, init, TRACE_VFORK | TRACE_EXIT)
    running = asyncio.create_task(sandbox.run(PROGRAM.run(sandbox.home, stdio)))
    assert await stopped(init) == EVENT_VFORK
    told = ctypes.c_ulong()
    ptrace(GET_EVENT, init, ctypes.byref(told))
    leader = told.value
    assert await stopped(leader) == EVENT_STOP
    ptrace(CONT, init)
    ptrace(CONT, leader)
    assert await stopped(leader) == EVENT_EXIT
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        (program,) = {int(child) for child in children} - {leader}
        number, descriptor, *_ = await waits_in(program, READ, PAUSE)
    finally:
        ptrace(DETACH, leader)
        ptrace(INTERRUPT, init)
        assert await stopped(init) == EVENT_STOP
        ptrace(DETACH, init)
    assert (int(number), int(descriptor, 16)) == (READ, 3)  # at its gate
    await waits_in(program, PAUSE)
    await running
    await sandbox.kill()
    await sandbox.close()

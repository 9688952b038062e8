"""The terminal of a sandbox: its programs have it one after another, each as if it was new."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import TerminalSize
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import RunEnd, Shape
from streamer.sandbox.stdio import Stdio
from tests.running import adopt_orphans, descendants, descriptors
from tests.sandbox.test_sandbox import LIMITS, OURS, pool_of, shell

SIZE = TerminalSize(cols=91, rows=33)
STOPS = "python3 -c 'import fcntl, termios as t; t.tcflow(1, t.TCOOFF); fcntl.ioctl(1, t.TIOCEXCL)'"
"""Nothing more is written until somebody lets it go on, and nobody else can open it."""


@pytest.fixture
def pool() -> Iterator[Pool]:
    adopt_orphans()
    with pool_of() as pool:
        yield pool


@pytest.fixture(params=OURS)
def backend(request: pytest.FixtureRequest, need: Callable[[str], str]) -> str:
    need("bwrap" if request.param == "templated" else request.param)
    return str(request.param)


async def on_terminal(sandbox: Sandbox, script: str, typed: bytes = b"") -> tuple[str, RunEnd]:
    """Run a program to its end, and return what is on the screen."""
    stdio = await sandbox.terminal(SIZE)
    stdin, stdout = stdio.take("stdin"), stdio.take("stdout")
    try:
        os.write(stdin, typed)
        running = await sandbox.run(shell(script, stdio))
        await running.exited
        sandbox.end_rest()
        end = await running.ended
        return until_hung_up(stdout), end
    finally:
        os.close(stdin)
        os.close(stdout)
        stdio.close()


async def unread(sandbox: Sandbox, script: str) -> None:
    """Run a program to its end, and leave what is on the screen."""
    stdio = await sandbox.terminal(SIZE)
    try:
        await (await sandbox.run(shell(script, stdio))).ended
    finally:
        stdio.close()


def until_hung_up(fd: int) -> str:
    data = b""
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        while True:
            data += os.read(fd, 4096)
    return data.decode()


async def test_each_program_finds_it_as_if_it_was_new(pool: Pool, backend: str) -> None:
    processes, files = descendants(), descriptors()
    sandbox = await pool.lend(Shape(backend, LIMITS, terminal=True))
    try:
        first, end = await on_terminal(sandbox, "stty -a; tty")
        assert end.status == 0
        assert "rows 33; columns 91" in first
        spoil = (
            f"stty raw -echo rows 1 cols 1; trap '' HUP; sleep 600 & echo spoilt; {STOPS}; exit 3"
        )
        spoilt, end = await on_terminal(sandbox, spoil, b"typed ahead\n")
        assert (spoilt.strip().splitlines()[-1], end.status) == ("spoilt", 3 << 8)
        again, end = await on_terminal(sandbox, "stty -a; tty")
        assert (again, end.status) == (first, 0)
        await on_terminal(sandbox, ":", b"\x13")
        again, end = await on_terminal(sandbox, "stty -a; tty")
        assert (again, end.status) == (first, 0), "a Ctrl-S was for an earlier one"
        await unread(sandbox, "echo left")
        again, end = await on_terminal(sandbox, "stty -a; tty")
        assert (again, end.status) == (first, 0), "nobody has read what an earlier one wrote"
        nothing, _ = await on_terminal(sandbox, "read -t 0.1 line || echo nothing", b"")
        assert nothing in ("nothing\r\n", "/bin/sh: 1: read: Illegal option -t\r\nnothing\r\n")
    finally:
        await sandbox.close()
        await pool.close()
    assert descendants() == processes
    assert descriptors() == files


async def test_a_sandbox_that_was_opened_without_one_has_none(pool: Pool, backend: str) -> None:
    sandbox = await pool.lend(Shape(backend, LIMITS))
    try:
        with pytest.raises(SandboxFailure, match="give the program a terminal"):
            await sandbox.terminal(SIZE)
    finally:
        await sandbox.close()
        await pool.close()


async def test_pipes_do_as_well_in_a_sandbox_with_a_terminal(pool: Pool, backend: str) -> None:
    sandbox = await pool.lend(Shape(backend, LIMITS, terminal=True))
    stdio = Stdio.pipes()
    output = stdio.take("stdout")
    try:
        running = await sandbox.run(shell("test -t 1 || echo a pipe; : < /dev/tty", stdio))
        end = await running.ended
        assert os.read(output, 100) == b"a pipe\n"
        assert end.status != 0, "it has no controlling terminal"
    finally:
        os.close(output)
        stdio.close()
        await sandbox.close()
        await pool.close()


@pytest.mark.parametrize("backend", ["bwrap", "templated"])
async def test_no_other_could_be_made_in_a_sandbox_of_namespaces(
    pool: Pool, need: Callable[[str], str], backend: str
) -> None:
    """Whoever might open the device: the host has a limited number for all."""
    need("bwrap")
    sandbox = await pool.lend(Shape(backend, LIMITS, terminal=True))
    try:
        mounts, _ = await on_terminal(sandbox, "grep ' /dev/pts devpts ' /proc/mounts")
        options = mounts.splitlines()[-1].split()[3].split(",")  # over that of its wrapper
        assert {"ptmxmode=000", "max=1"} <= {*options}
    finally:
        await sandbox.close()
        await pool.close()

"""What a template answers in time, late, and to whom."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import termios
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from streamer.bounded import ends_in
from streamer.errors import SandboxFailure
from streamer.sandbox.drivers import template as driver
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.drivers.protocol import PROTOCOL
from streamer.sandbox.drivers.spawn import spawn, start_command
from streamer.sandbox.drivers.template import Child, Template
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import Program
from streamer.spi import LaunchPlan, TemplatePlan
from tests.running import adopt_orphans, descendants, descriptors
from tests.sandbox.forking import PROGRAM
from tests.sandbox.templated import checked_pool, init_of, lent, pool_of, told


@pytest.fixture
async def pool(need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with checked_pool("off") as opened:
        yield opened


async def test_the_time_limit_of_an_answer_ends_no_program(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool):
        pass
    monkeypatch.setattr("streamer.sandbox.drivers.template.ANSWER_TIMEOUT_S", 0.2)
    async with lent(pool) as sandbox:
        pids = pool.templates.pids
        assert (await told(sandbox, "import time; time.sleep(0.5); print(1)"))[1] == "1\n"
    async with lent(pool):
        assert pool.templates.pids == pids


async def test_a_request_that_could_not_be_sent_takes_nobodys_answer(pool: Pool) -> None:
    async with contextlib.AsyncExitStack() as held, lent(pool):
        (kept,) = pool.templates._kept.values()
        init = init_of(pool.templates.pids)
        os.kill(init, signal.SIGSTOP)
        # The least that the kernel allows: what waits has descriptors, of which there may be 1,024.
        kept.template._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        asked: list[Gated] = []
        with pytest.raises(SandboxFailure, match="takes no job"):
            while True:  # until its socket is full
                asked.append(kept.template.sandbox(kept.template.plan, "", (), by_group=0))
                held.push_async_callback(asked[-1].close)
        os.kill(init, signal.SIGCONT)
        for gated in asked:
            await gated.come_up()
        last = kept.template.sandbox(kept.template.plan, "", (), by_group=0)
        held.push_async_callback(last.close)
        await last.come_up()


def full_pipe(held: contextlib.AsyncExitStack) -> tuple[int, int]:
    """Return the ends of a pipe to which nothing can be written until it is read from."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    held.callback(os.close, reading)
    held.callback(os.close, writing)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.skipif(os.geteuid() != 0, reason="a template hides its processes from their own user")
async def test_the_namespaces_of_a_job_are_made_in_its_group_and_not_by_the_template(
    pool: Pool,
) -> None:
    def network(pid: int) -> Path:
        return Path(f"/proc/{pid}/ns/net").readlink()

    async with contextlib.AsyncExitStack() as held, lent(pool):
        (kept,) = pool.templates._kept.values()
        its_own = network(init_of(pool.templates.pids))
        entered, enters = full_pipe(held)
        first = kept.template.sandbox(kept.template.plan, "", (enters,), by_group=0)
        held.push_async_callback(first.close)
        second = kept.template.sandbox(kept.template.plan, "", (), by_group=0)
        held.push_async_callback(second.close)
        await second.come_up()  # the template does not wait for the first
        assert network(first._wrapper.pid) == its_own != network(second._wrapper.pid)
        os.read(entered, 65536)
        await first.come_up()
        networks = {network(sandbox._wrapper.pid) for sandbox in (first, second)}
        assert len(networks - {its_own}) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="an account's descriptors on their way are counted")
async def test_a_sandbox_that_cannot_be_handed_over_is_dead(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of so many descriptors that nobody has received a process may send no more (unix(7)).
    few = ("/bin/sh", "-c", 'ulimit -n 16 && exec "$@"', "sh")
    monkeypatch.setattr(
        "streamer.sandbox.templates.start_command",
        lambda *given: (*few, *start_command(*given)),
    )
    async with contextlib.AsyncExitStack() as held, lent(pool):
        (kept,) = pool.templates._kept.values()
        before = descendants()
        _, enters = full_pipe(held)
        asked: list[Gated] = []
        for _ in range(20):
            asked.append(kept.template.sandbox(kept.template.plan, "", (enters,), by_group=0))
            held.push_async_callback(asked[-1].close)
        unread = array("i", [1])
        while unread[0]:  # until the template has taken all of them
            fcntl.ioctl(kept.template._sock, termios.TIOCOUTQ, unread)
        answers = [cast("Child", gated._wrapper)._answer for gated in asked]
        await asyncio.wait(answers)
        made = [answer for answer in answers if answer.exception() is None]
        assert len(made) < len(answers)
        # Each waits to enter its group, and so would those that nobody else knows.
        assert len(descendants()) == len(before) + len(made)
        for gated in asked:
            gated._wrapper.kill()  # they would not hear that they are closed


async def test_a_pool_that_is_left_without_a_close_leaves_no_template(
    need: Callable[[str], str],
) -> None:
    need("bwrap")
    adopt_orphans()
    before = descendants()
    with pool_of(cgroup="off") as pool:
        async with lent(pool):
            assert descendants() != before
    async with asyncio.timeout(20):
        while descendants() != before:
            await asyncio.sleep(0.01)


async def test_the_folder_of_a_group_is_closed_when_it_was_sent(pool: Pool, tmp_path: Path) -> None:
    async with lent(pool):
        (kept,) = pool.templates._kept.values()
        # No process can be cloned into it, so the sandbox is made as without one.
        gated = kept.template.sandbox(kept.template.plan, str(tmp_path), (), by_group=0)
        await gated.come_up()
        await gated.close()
        assert str(tmp_path) not in descriptors().values()


# -- a template that is a program of the test's own ------------------------------------------------

FAKE = f"""
import os, signal, socket
service = socket.socket(fileno=os.dup(0))
os.close(0)
def hello():
    service.send(b"H" + bytes([{PROTOCOL}]))
"""


@asynccontextmanager
async def fake(code: str, program: Program | None = None) -> AsyncIterator[Template]:
    """Start it, and see that nothing is left of it when it is closed."""
    adopt_orphans()
    before = descendants(), descriptors()
    launch = LaunchPlan((sys.executable, "-I", "-c", FAKE + code))
    template = Template(TemplatePlan(launch, ()), launch.argv, program)
    try:
        yield template
    finally:
        ended = await template.close()
        template.kill()
    assert ended
    assert (descendants(), descriptors()) == before


async def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "START_TIMEOUT_S", 0.1)
    async with fake("service.recv(1)") as template:
        with pytest.raises(SandboxFailure, match="did not start: the wrapper said nothing"):
            await template.come_up()


async def test_one_that_does_not_become_its_program_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "START_TIMEOUT_S", 1)
    async with fake("hello()\nservice.recv(1)\nservice.recv(1)", PROGRAM) as template:
        with pytest.raises(SandboxFailure, match="did not start"):
            await template.come_up()
        assert template.gone.is_set()


async def test_one_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = iter((0.0, 20.0))
    monkeypatch.setattr(driver, "ends_in", lambda _, work: ends_in(next(waits), work))
    async with fake("hello()\nsignal.pause()") as template:
        await template.come_up()


BESIDE = """
if os.fork():
    service.close()
    signal.pause()
os.setpgid(0, 0)  # what is left in the wrapper's group is killed at its end
hello()
signal.pause()
"""


@pytest.mark.parametrize("first", ["wrapper", "init"])
async def test_one_is_gone_when_both_its_wrapper_and_its_init_are(first: str) -> None:
    async with asyncio.timeout(20), fake(BESIDE) as template:
        await template.come_up()
        wrapper = template._wrapper.pid
        (init,) = template.pids - {wrapper}
        if first == "wrapper":
            os.kill(wrapper, signal.SIGKILL)
            await template._reaping
        else:
            os.kill(init, signal.SIGKILL)
            while template._pidfd >= 0:
                await asyncio.sleep(0)
        assert not template.gone.is_set()
        os.kill(init if first == "wrapper" else wrapper, signal.SIGKILL)
        await template.gone.wait()


async def test_one_that_ends_fails_all_who_wait_for_it() -> None:
    code = "hello()\nfor _ in range(3): service.recv(65536)"
    async with asyncio.timeout(20), fake(code) as template:
        await template.come_up()
        asked = [template.sandbox(template.plan, "", (), by_group=0) for _ in range(3)]
        for gated in asked:
            with pytest.raises(SandboxFailure):
                await gated.come_up()
            await gated.close()


REFUSES = """
hello()
while service.recv(65536):
    socket.send_fds(service, [b"J" + bytes([12, 0, 0, 0])], [service.fileno()])
"""


async def test_a_descriptor_that_comes_with_a_refusal_is_closed() -> None:
    async with fake(REFUSES) as template:
        await template.come_up()
        gated = template.sandbox(template.plan, "", (), by_group=0)
        with pytest.raises(SandboxFailure):
            await gated.come_up()
        await gated.close()


async def test_a_kill_before_the_answer_is_done_with_the_answer() -> None:
    async with fake("hello()\nservice.recv(1)") as template:
        await template.come_up()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = Child(template, answer)
        null = subprocess.DEVNULL
        process = spawn(
            ("/bin/sleep", "600"), env={}, cwd="/", stdin=null, stdout=null, stderr=null
        )
        try:
            child.kill()
            answer.set_result(os.pidfd_open(process.pid))
            await asyncio.wait({child.ended}, timeout=20)
            assert child.ended.done()
        finally:
            process.kill()
        assert await process.wait() == -signal.SIGKILL

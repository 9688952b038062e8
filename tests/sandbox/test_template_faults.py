"""Templates that fail or resist, and descriptors that run out."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from streamer.errors import SandboxFailure
from streamer.sandbox import registry, templates
from streamer.sandbox.drivers import template as driver
from streamer.sandbox.drivers.gated import opened_ends
from streamer.sandbox.drivers.protocol import PROTOCOL
from streamer.sandbox.drivers.template import Child, Template
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import Run, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import LaunchPlan, SandboxJob, TemplatePlan
from streamer.testing.running import plugin
from tests.conftest import OpenService
from tests.running import run_job
from tests.sandbox.templated import LIMITS, SHAPE, checked_pool, lent, pool_of, told, until_ended

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to lend")


@pytest.fixture
async def pool(need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with checked_pool("off") as opened:
        yield opened


# -- one that nobody needs, or that does not die -----------------------------------------------------


async def test_a_template_that_was_never_used_is_ended(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "IDLE_S", 0.01)
    opening = asyncio.create_task(pool.lend(SHAPE))
    while not pool.templates.pids:
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait({opening})
    assert opening.cancelled()
    await until_ended(pool, pool.templates.pids)


@contextlib.contextmanager
def frozen(pids: frozenset[int], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no signal end some processes, as if they waited for a disk that hangs."""
    with patch.context() as deaf:
        deaf.setattr(signal, "pidfd_send_signal", lambda *_: None)
        deaf.setattr(os, "killpg", lambda *_: None)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has died with the other one
            os.kill(pid, signal.SIGKILL)


async def test_a_template_that_resists_is_counted_until_it_has_died(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told_of: list[int] = []
    pool.templates.on_resisting = lambda: told_of.append(pool.templates.resisting)
    monkeypatch.setattr(driver, "END_TIMEOUT_S", 0.1)
    monkeypatch.setattr(templates, "IDLE_S", 0.01)
    async with lent(pool):
        pids = pool.templates.pids
    with frozen(pids, monkeypatch):
        async with asyncio.timeout(20):
            while not told_of:
                await asyncio.sleep(0.01)
        assert pool.templates.pids == pids
        assert "does not die" in caplog.text
    await until_ended(pool, pids)
    assert told_of == [1, 0]


async def test_one_that_resists_takes_the_room_of_another(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr(driver, "END_TIMEOUT_S", 0.1)
    monkeypatch.setattr(templates, "FRESH_S", 600)  # the second would go for the third
    shapes = [replace(SHAPE, read_only=path) for path in ((), ("/var/lib",), ("/var/cache",))]
    with pool_of(places=1) as pool:
        pool.templates._most = 2
        async with lent(pool):
            pids = pool.templates.pids
        with frozen(pids, monkeypatch):
            (kept,) = pool.templates._kept.values()
            pool.templates._end(kept)
            while not pool.templates.resisting:
                await asyncio.sleep(0.01)
            async with lent(pool, shapes[1]):
                pass
            sandbox = await pool.lend(shapes[2])
            await sandbox.close()
            assert not sandbox.from_template
        await until_ended(pool, pids)
        await pool.close()


@ROOT_ONLY
async def test_no_job_without_isolation_gets_the_user_of_one_that_resists(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr(driver, "END_TIMEOUT_S", 0.1)
    with pool_of(places=1) as pool:
        async with lent(pool):
            pids = pool.templates.pids
        with frozen(pids, monkeypatch):
            for _ in range(2):
                with pytest.raises(SandboxFailure, match="does not die"):
                    await pool.lend(Shape("plain", LIMITS))
        await until_ended(pool, pids)
        await (await pool.lend(Shape("plain", LIMITS))).close()
        await pool.close()


async def test_a_pool_is_closed_although_a_template_resists(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr(driver, "END_TIMEOUT_S", 0.1)
    with pool_of() as pool:
        async with lent(pool):
            pids = pool.templates.pids
        (kept,) = pool.templates._kept.values()
        with frozen(pids, monkeypatch):
            async with asyncio.timeout(20):
                await pool.close()
        await kept.template.gone.wait()


# -- tests and failures --------------------------------------------------------------------------


async def test_after_failures_in_a_row_the_template_is_tested_again(
    open_service: OpenService, need: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    service = await open_service(need("bwrap"))
    pool = service.worker.pool
    assert pool is not None
    for number in range(templates.MAX_FAILURES):
        assert pool.templates.why_not("bwrap") == ""
        pool.templates.failed("bwrap", SandboxFailure(f"failure {number}"))
    assert "failure 2" in pool.templates.why_not("bwrap")
    async with asyncio.timeout(20):
        while pool.templates.why_not("bwrap"):
            await asyncio.sleep(0.01)
    assert "its template works again" in caplog.text
    assert (await run_job(service, command=("echo", "1"))).out == "1\n"
    assert pool.templates.pids


async def test_failures_with_successes_between_them_are_no_reason(pool: Pool) -> None:
    for _ in range(templates.MAX_FAILURES):
        pool.templates.failed("bwrap", SandboxFailure("it is broken"))
        pool.templates.worked("bwrap")
    assert pool.templates.why_not("bwrap") == ""


async def test_a_sandbox_that_was_made_is_a_success(pool: Pool) -> None:
    for _ in range(templates.MAX_FAILURES):
        pool.templates.failed("bwrap", SandboxFailure("it is broken"))
        pool.templates._retry_at.clear()
        async with lent(pool):
            pass


async def test_a_template_that_failed_its_test_is_tested_again_later(
    open_service: OpenService,
    need: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    need("bwrap")
    monkeypatch.setattr(registry, "RETRY_S", 0.05)
    broken = {"still"}
    tests = 0

    @dataclass(frozen=True)
    class Broken(Bwrap):
        name: ClassVar[str] = "broken"

        def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
            nonlocal tests
            tests += 1
            plan = super().template_plan(job)
            assert plan is not None
            if not broken:
                return plan
            launch = replace(plan.launch, argv=("/bin/false",))
            return replace(plan, launch=launch)

    service = await open_service("broken", plugins=(plugin(Broken),))
    pool = service.worker.pool
    assert pool is not None
    async with asyncio.timeout(30):
        while tests < 6:
            await asyncio.sleep(0.01)
        assert pool.templates.why_not("broken")
        assert caplog.text.count("a template does not work here") == 1
        broken.clear()
        while pool.templates.why_not("broken"):
            await asyncio.sleep(0.01)
    assert (await run_job(service, command=("echo", "1"))).out == "1\n"


# -- answers and descriptors -------------------------------------------------------------------------


async def test_answers_that_are_there_are_heard_before_a_deadline(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool) as sandbox:
        (kept,) = pool.templates._kept.values()
        template, plan = kept.template, kept.template.plan
        monkeypatch.setattr(driver, "ANSWER_TIMEOUT_S", 0.0)
        opened = [template.sandbox(plan, "", (), by_group=0) for _ in range(3)]
        size = struct.Struct("i")
        answered = 0
        while answered < 3 * 5:  # this thread does nothing else meanwhile
            there = fcntl.ioctl(template._sock, termios.FIONREAD, bytes(size.size))
            (answered,) = size.unpack(there)
        try:
            await asyncio.gather(*(gated.come_up() for gated in opened))
            assert (await told(sandbox, "print(1)"))[1] == "1\n"
        finally:
            for gated in opened:
                await gated.close()


MUTE = f"""
import os, socket
with socket.socket(fileno=os.dup(0)) as service:
    service.send(b"H" + bytes([{PROTOCOL}]))
    while service.recv(65536):
        service.send(b"J" + bytes(4))
"""


async def test_a_process_without_a_descriptor_is_dead_only_with_its_template() -> None:
    # This is what the kernel delivers to a process that has no descriptor left.
    launch = LaunchPlan((sys.executable, "-I", "-c", MUTE))
    template = Template(TemplatePlan(launch, ()), launch.argv)
    await template.come_up()
    with opened_ends() as ends:
        child = Child(template, template._ask(template.plan, ends, "", (), 0))
    try:
        await child.ended
        assert template.gone.is_set()
    finally:
        ends.channel.close()
        os.close(ends.complaints)
        assert await template.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Use up all descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used: list[int] = []
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, hard)
        )
        with contextlib.suppress(OSError):
            while True:
                used.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in used:
            os.close(fd)


async def test_without_descriptors_no_template_and_no_other_job_is_lost(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool) as sandbox:
        pids = pool.templates.pids
        (kept,) = pool.templates._kept.values()
        running = await sandbox.run(Run(("/bin/sleep", "600"), {}, LIMITS, Stdio.null()))
        gated = kept.template.sandbox(kept.template.plan, "", (), by_group=0)
        with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
            await gated.come_up()
        await gated.close()
        assert pool.templates.pids == pids
        assert not running.ended.done()
        await sandbox.kill()
        await running.ended

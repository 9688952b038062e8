"""Templates end, hang and fail, and cost no job its sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.bwrap import Bwrap
from streamer.errors import SandboxFailure
from streamer.sandbox import lookout, templates
from streamer.sandbox import pool as pool_module
from streamer.sandbox.drivers.spawn import spawn
from streamer.sandbox.drivers.template import Child
from streamer.sandbox.pool import Pool
from streamer.sandbox.shape import Run, Shape
from streamer.sandbox.stdio import Stdio
from streamer.spi import SandboxJob, TemplatePlan
from tests.running import adopt_orphans, descendants, kept_besides
from tests.sandbox.templated import LIMITS, MIB, SHAPE, checked_pool, init_of, lent, pool_of, told


@pytest.fixture(params=["auto", "off"], ids=["groups", "no-groups"])
async def pool(request: pytest.FixtureRequest, need: Callable[[str], str]) -> AsyncIterator[Pool]:
    """A pool that leaves nothing, with control groups and without."""
    need("bwrap")
    async with checked_pool(request.param) as opened:
        yield opened


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to lend")


async def test_a_dead_template_is_noticed_and_replaced(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    async with lent(pool):
        first = pool.templates.pids
    (kept,) = pool.templates._kept.values()
    os.kill(init_of(first), signal.SIGKILL)
    await kept.template.gone.wait()
    assert not descendants().keys() & first
    async with lent(pool) as sandbox:
        assert not pool.templates.pids & first
        assert (await told(sandbox, "print(1)"))[1] == "1\n"
    assert "another is started" in caplog.text


async def test_a_job_ends_with_its_template(pool: Pool) -> None:
    async with lent(pool) as sandbox:
        running = await sandbox.run(Run(("/bin/sleep", "600"), {}, LIMITS, Stdio.null()))
        (kept,) = pool.templates._kept.values()
        for pid in pool.templates.pids:
            with contextlib.suppress(ProcessLookupError):  # it has died with the other one
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(SandboxFailure, match="the init ended"):
            await running.ended
    await kept.template.gone.wait()
    async with lent(pool) as sandbox:
        assert (await told(sandbox, "print(1)"))[1] == "1\n"


async def test_a_template_that_makes_nothing_costs_no_job(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with lent(pool):
        pass
    real = Bwrap.template_plan

    def nowhere(self: Bwrap, job: SandboxJob) -> TemplatePlan | None:
        plan = real(self, job)
        assert plan is not None
        return replace(plan, mounts=(*plan.mounts, ("/nowhere", MIB)))

    monkeypatch.setattr(Bwrap, "template_plan", nowhere)
    monkeypatch.setattr(templates, "RETRY_S", 0.0)
    for _ in range(2):
        sandbox = await pool.lend(SHAPE)
        assert not sandbox.from_template
        assert (await told(sandbox, "print(1)"))[1] == "1\n"
        await sandbox.close()
    assert "/nowhere: No such file or directory" in caplog.text
    monkeypatch.setattr(Bwrap, "template_plan", real)
    async with lent(pool):
        pass


async def test_a_template_that_hangs_is_ended_and_costs_no_job(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lent(pool):
        pids = pool.templates.pids
    os.kill(init_of(pids), signal.SIGSTOP)
    monkeypatch.setattr("streamer.sandbox.drivers.template.ANSWER_TIMEOUT_S", 0.2)
    sandbox = await pool.lend(SHAPE)
    assert not sandbox.from_template
    assert (await told(sandbox, "print(1)"))[1] == "1\n"
    await sandbox.close()
    assert not descendants().keys() & pids


async def test_after_a_failure_jobs_have_their_own_sandboxes_for_some_time(pool: Pool) -> None:
    pool.templates.failed("bwrap", SandboxFailure("it is broken"))
    sandbox = await pool.lend(SHAPE)
    await sandbox.close()
    assert not sandbox.from_template


async def test_jobs_get_no_template_that_was_not_tested(need: Callable[[str], str]) -> None:
    need("bwrap")
    with pool_of() as pool:
        pool.templates.tried("bwrap", "it is broken")
        sandbox = await pool.lend(SHAPE)
        await sandbox.close()
        assert not sandbox.from_template
        assert not pool.templates.pids


async def test_a_job_with_the_hosts_network_has_its_own_command(pool: Pool) -> None:
    sandbox = await pool.lend(replace(SHAPE, network=True))
    await sandbox.close()
    assert not sandbox.from_template


async def test_a_job_that_its_file_systems_would_hide_something_from_has_its_own_command(
    pool: Pool,
) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as shown:
        Path(shown.name).chmod(0o644)
        sandbox = await pool.lend(replace(SHAPE, read_only=(shown.name,)))
        try:
            assert not sandbox.from_template
            end, _ = await told(sandbox, f"open({shown.name!r})")
            assert end.status == 0
        finally:
            await sandbox.close()


async def test_what_is_shown_anew_needs_another_template(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_S", 0.01)
    shown = Path("/opt") / f"shown-{os.getpid()}"
    try:
        shown.write_text("old")
    except OSError:
        pytest.skip("only root may write to /opt")
    try:
        shape = replace(SHAPE, read_only=(str(shown),))
        read = f"print(open({str(shown)!r}).read())"
        async with lent(pool, shape) as sandbox:
            assert (await told(sandbox, read))[1] == "old\n"
        pids = pool.templates.pids
        new = shown.with_suffix(".new")
        new.write_text("new")
        new.rename(shown)
        while pool.templates.pids & pids:
            await asyncio.sleep(0.01)
        async with lent(pool, shape) as sandbox:
            assert (await told(sandbox, read))[1] == "new\n"
    finally:
        shown.unlink()


async def test_there_are_no_more_templates_than_places(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    shapes = [replace(SHAPE, read_only=path) for path in ((), ("/var/lib",), ("/var/cache",))]
    monkeypatch.setattr(pool_module, "SPARE", 0)
    with pool_of(places=1) as pool:
        for shape in shapes[:2]:
            async with lent(pool, shape):
                pass
        sandbox = await pool.lend(shapes[2])  # the others were used just now
        await sandbox.close()
        assert not sandbox.from_template
        monkeypatch.setattr(templates, "FRESH_S", 0.0)
        before = pool.templates.pids
        async with lent(pool, shapes[2]):
            assert len(pool.templates.pids - before) == 2
        await pool.close()


async def test_an_idle_template_is_ended(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "IDLE_S", 0.01)
    async with lent(pool):
        pids = pool.templates.pids
        assert len(pids) == 2
    while pool.templates.pids:
        await asyncio.sleep(0.01)
    assert not descendants().keys() & pids


@ROOT_ONLY
async def test_the_rest_of_many_jobs_at_once_is_ended_early(
    need: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    need("bwrap")
    monkeypatch.setattr(templates, "REST_S", 0.01)
    with pool_of(places=3) as pool:
        pool.templates._spare = 1
        async with lent(pool):
            one = pool.templates.pids
            async with lent(pool), lent(pool):
                assert len(pool.templates.pids) == 3 * len(one)
        async with asyncio.timeout(20):
            while len(pool.templates.pids) > len(one):
                await asyncio.sleep(0.01)
        (kept,) = pool.templates._kept.values()
        assert kept.idle is not None
        assert kept.idle.when() > asyncio.get_running_loop().time() + 10
        await pool.close()


@ROOT_ONLY
async def test_no_job_without_isolation_shares_its_user_with_a_template(
    need: Callable[[str], str],
) -> None:
    need("bwrap")
    with pool_of(places=1) as pool:
        async with lent(pool) as sandbox:
            user = sandbox.identity
            pids = pool.templates.pids
        plain = await pool.lend(Shape("plain", LIMITS))
        try:
            assert plain.identity == user
            assert not descendants().keys() & pids
        finally:
            await plain.close()
        await pool.close()


async def test_opening_that_is_given_up_leaves_nothing(pool: Pool) -> None:
    async with lent(pool):
        pass
    before, _ = kept_besides(pool)
    for turns in range(8):
        opening = asyncio.create_task(pool.lend(SHAPE))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled():  # it was faster
            await opening.result().close()
        assert kept_besides(pool)[0] == before
    async with lent(pool):
        pass


SERVICE = """
import asyncio, sys
from sandboxes.bwrap import Bwrap
from streamer.model.job import Limits
from streamer.sandbox.shape import Run
from streamer.sandbox.stdio import Stdio
from tests.sandbox.templated import LIMITS, SHAPE, pool_of

async def main():
    with pool_of() as pool:
        sandbox = await pool.lend(SHAPE)
        await sandbox.run(Run(("/bin/sleep", "600"), {}, LIMITS, Stdio.null()))
        print(*pool.templates.pids, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_template_dies_with_the_service(need: Callable[[str], str]) -> None:
    need("bwrap")
    adopt_orphans()
    others = descendants().keys()  # such as systemd's, in a session
    with subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        pids = {int(pid) for pid in service.stdout.readline().split()}
        assert len(pids) == 2
        assert descendants().keys() > pids | {service.pid}
        service.kill()
    deadline = time.monotonic() + 20
    while descendants().keys() - others:
        assert time.monotonic() < deadline, descendants()
        time.sleep(0.01)


@pytest.mark.parametrize("turns", [0, 1])
async def test_the_hello_of_a_job_may_come_before_the_templates_answer(
    pool: Pool, turns: int
) -> None:
    async with lent(pool):
        (kept,) = pool.templates._kept.values()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        child = Child(kept.template, answer)
        null = subprocess.DEVNULL
        process = spawn(
            ("/bin/sleep", "600"), env={}, cwd="/", stdin=null, stdout=null, stderr=null
        )
        opening = asyncio.create_task(child.open_init(process.pid))
        for _ in range(turns):
            await asyncio.sleep(0)
        answer.set_result(os.pidfd_open(process.pid))
        os.close(await opening)
        with pytest.raises(SandboxFailure, match="hello"):
            await child.open_init(os.getpid())
        child.kill()
        await child.ended
        assert await process.wait() == -signal.SIGKILL

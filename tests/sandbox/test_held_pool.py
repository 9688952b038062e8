"""A pool holds programs for jobs to come, and no job waits for them or notices them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.errors import SandboxFailure
from streamer.model.capabilities import NOT_TESTED
from streamer.model.job import Limits, SourceFile
from streamer.sandbox import held as module
from streamer.sandbox import lookout, refill, wants
from streamer.sandbox.pool import Pool
from streamer.sandbox.processors import Processors
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Shape
from tests.running import adopt_orphans, descendants, descriptors
from tests.sandbox.templated import pool_of

LIMITS = Limits(wall_time_s=60)
SHAPE = Shape("bwrap", LIMITS)
ENV = (("PATH", "/usr/bin:/bin"), ("HOME", ""))
PYTHON = Program(("python3", "main.py"), ENV, LIMITS)
SHELL = Program(("bash", "main.sh"), ENV, LIMITS)
PERL = Program(("perl", "main.pl"), ENV, LIMITS)
SPINS = Program(("python3", "-I", "-S", "-c", "while True: pass"), ENV, LIMITS)
PRINTS = {"python3": "print('up')", "bash": "echo up", "perl": 'print "up\\n"'}


@pytest.fixture(params=["command", "template"])
async def pool(request: pytest.FixtureRequest, need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    adopt_orphans()
    before = descendants(), descriptors()
    with pool_of(places=2) as pool:
        pool.held.tried("bwrap", "")
        pool.held._refill._processors.count = 1000  # whatever else runs on this machine
        if request.param == "command":
            pool.templates.tried("bwrap", "not in this test")
        yield pool
        await pool.close()
        assert descendants() == before[0]
    assert descriptors() == before[1]


async def held(pool: Pool, count: int) -> None:
    """Wait until so many programs are held."""
    async with asyncio.timeout(20):
        while pool.held.ahead.held.get("bwrap", 0) != count or pool.held._ending:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def lent(
    pool: Pool, program: Program | None = PYTHON, shape: Shape = SHAPE
) -> AsyncIterator[Sandbox]:
    async with asyncio.timeout(20):
        sandbox = await pool.lend(shape, program)
    try:
        yield sandbox
    finally:
        await sandbox.close()


async def told(sandbox: Sandbox, program: Program = PYTHON) -> str:
    """Run a program as a job does, and return what it has written."""
    file = SourceFile(program.argv[-1], PRINTS[program.argv[0]].encode())
    await sandbox.put_files((file,), program.limits)
    with contextlib.closing(sandbox.stdio(with_input=False)) as stdio:
        running = await sandbox.run(program.run(sandbox.home, stdio))
        async with asyncio.timeout(20):
            end = await running.ended
        assert (end.status, end.cause) == (0, None)
        return os.read(stdio._ours["stdout"], 65536).decode()


async def test_after_a_job_the_next_one_finds_its_program_started(pool: Pool) -> None:
    for count in range(3):
        async with lent(pool) as sandbox:
            assert sandbox.waits == (count > 0)
            assert await told(sandbox) == "up\n"
        await held(pool, 1)
    assert (pool.held.ahead.warm, pool.held.ahead.cold) == (2, 1)


async def test_the_next_one_is_begun_while_the_program_runs(pool: Pool) -> None:
    waits = SourceFile("main.py", b"input()")
    async with lent(pool) as sandbox:
        await sandbox.put_files((waits,), LIMITS)
        assert pool.held._refill._timer is None
        with contextlib.closing(sandbox.stdio(with_input=True)) as stdio:
            running = await sandbox.run(PYTHON.run(sandbox.home, stdio))
            await held(pool, 1)
            assert not running.ended.done()
    await held(pool, 1)
    assert pool.held._refill._timer is None  # its end wants no other


async def test_a_job_takes_one_that_is_ready_before_one_that_is_not(pool: Pool) -> None:
    async with lent(pool), lent(pool):
        pass
    await held(pool, 2)
    first, second = pool.held._held
    assert first.idle is not None
    first.idle.cancel()
    first.idle = None  # as if it was on its way
    assert pool.held._best((SHAPE, PYTHON)) is second


async def test_for_a_program_that_cannot_be_held_a_sandbox_is_opened(pool: Pool) -> None:
    pool.held._refuse((SHAPE, PYTHON), "it is not held")
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"
    await held(pool, 1)
    assert [one.key for one in pool.held._held] == [(SHAPE, None)]


async def test_none_is_started_while_jobs_need_the_processors(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "QUIET_S", 3600.0)
    pool.held._refill._processors.count = 1
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"
        timer = pool.held._refill._timer
        async with asyncio.timeout(20):
            while timer is None or pool.held._refill._timer is timer:
                await asyncio.sleep(0.001)
        assert pool.held._held == []
    await held(pool, 1)


async def test_none_is_started_while_the_programs_of_quiet_jobs_use_the_processors(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "QUIET_S", 0.0)
    monkeypatch.setattr(refill, "PATIENCE_S", 0.0)
    monkeypatch.setattr(Processors, "were_free", lambda _: False)
    pool.held._refill._processors.count = 1
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"
        timer = pool.held._refill._timer
        async with asyncio.timeout(20):
            while timer is None or pool.held._refill._timer is timer:
                await asyncio.sleep(0.001)
        assert pool.held._held == []
    await held(pool, 1)


async def test_fewer_wait_than_there_are_places(pool: Pool) -> None:
    pool.held._most = 1
    async with lent(pool), lent(pool):
        pass
    async with asyncio.timeout(20):
        while pool.held._refill._wanted or pool.held.ahead.held.get("bwrap", 0) != 1:
            await asyncio.sleep(0.001)
    assert len(pool.held._held) == 1
    async with lent(pool), lent(pool):  # the limit is none for jobs
        assert pool.held._refill.jobs == 2


async def test_jobs_that_only_wait_need_no_processor(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refill, "QUIET_S", 0.05)
    monkeypatch.setattr(Processors, "were_free", lambda _: True)
    pool.held._refill._processors.count = 1
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"
        await held(pool, 1)


async def test_on_a_busy_machine_it_takes_longer(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.held._refill._processors.count = 1
    monkeypatch.setattr(Processors, "are_wanted", lambda _: True)
    monkeypatch.setattr(refill, "PATIENCE_S", 3600.0)
    async with lent(pool):
        pass
    pause = refill.BUSY_S / 2
    async with asyncio.timeout(20):
        while (
            pool.held._refill._timer is None
            or pool.held._refill._looks_at < pool.held._refill._due - 3600 + pause
        ):
            await asyncio.sleep(0.001)
    assert pool.held._held == []
    pool.held._refill._due = 0.0
    await held(pool, 1)


async def test_each_serves_one_job(pool: Pool) -> None:
    async with lent(pool):
        pass
    await held(pool, 1)
    async with lent(pool) as first, lent(pool) as second:
        assert (first.waits, second.waits) == (True, False)
        assert await told(first) == await told(second) == "up\n"
    await held(pool, 2)


@pytest.mark.parametrize(
    ("shape", "program"),
    [
        (SHAPE, replace(PYTHON, argv=("python3", "main.py", "more"))),
        (SHAPE, replace(PYTHON, env=(*ENV, ("MORE", "1")))),
        (SHAPE, replace(PYTHON, env=(*reversed(ENV),))),
        (SHAPE, replace(PYTHON, limits=replace(LIMITS, open_files=99))),
        (replace(SHAPE, limits=replace(LIMITS, disk_bytes=2**20)), PYTHON),
        (replace(SHAPE, network=True), PYTHON),
        (replace(SHAPE, read_only=("/opt",)), PYTHON),
    ],
    ids=["arguments", "variables", "their order", "limits", "shape", "network", "paths"],
)
async def test_a_job_that_differs_starts_its_own(
    pool: Pool, shape: Shape, program: Program
) -> None:
    async with lent(pool):
        pass
    await held(pool, 1)
    async with lent(pool, program, shape) as sandbox:
        assert not sandbox.waits
        assert pool.held.ahead.held == {"bwrap": 1}


async def test_a_job_takes_over_what_is_still_being_made(pool: Pool) -> None:
    for _ in range(5):
        async with lent(pool) as sandbox:
            assert await told(sandbox) == "up\n"
        async with asyncio.timeout(20):
            while not pool.held._held:
                await asyncio.sleep(0)
    assert pool.held.ahead.warm == 4


async def test_there_are_never_more_than_places(pool: Pool) -> None:
    async with lent(pool, PYTHON), lent(pool, SHELL):
        assert len(pool.held._held) == 0
    await held(pool, 2)
    async with lent(pool, PERL) as sandbox:
        # The one that was wanted least recently had to go; which of the two is of no account.
        assert not sandbox.waits
        await held(pool, 1)
    await held(pool, 2)
    assert {one.key[1] for one in pool.held._held} >= {PERL}
    async with lent(pool, PYTHON), lent(pool, SHELL):
        await held(pool, 0)


def unlike(count: int) -> Program:
    return replace(PYTHON, limits=replace(LIMITS, open_files=100 + count))


async def test_what_is_wanted_once_takes_no_place_of_what_is_wanted_again(pool: Pool) -> None:
    for _ in range(2):
        async with lent(pool):
            pass
        await held(pool, 1)
    for count in range(5):
        async with lent(pool, unlike(count)) as sandbox:
            assert not sandbox.waits
        async with asyncio.timeout(20):
            while not any(one.ready and one.key[1] == unlike(count) for one in pool.held._held):
                await asyncio.sleep(0.01)
        assert {one.key[1] for one in pool.held._held} == {PYTHON, unlike(count)}
    async with lent(pool) as sandbox:
        assert sandbox.waits


async def test_what_is_wanted_once_waits_for_no_place_of_what_is_wanted_again(pool: Pool) -> None:
    for _ in range(2):
        async with lent(pool):
            pass
        await held(pool, 1)
    async with lent(pool, unlike(0)):
        pool.held._refill._wanted.append((SHAPE, unlike(1)))  # of a job that has ended a moment ago
        pool.held._refill._look()
        assert [one.key[1] for one in pool.held._held] == [PYTHON]


async def test_what_is_not_wanted_any_more_makes_room(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        async with lent(pool):
            pass
        await held(pool, 1)
    monkeypatch.setattr(wants, "LATELY_S", 0.0)
    for count in range(2):
        async with lent(pool, unlike(count)):
            pass
        await held(pool, 2)
    assert {one.key[1] for one in pool.held._held} == {unlike(0), unlike(1)}


async def test_callers_do_not_fill_the_log_by_their_choice_of_limits(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    for count in range(3):
        pool.held._refuse((SHAPE, unlike(count)), "the program has ended")
    pool.held._refuse((SHAPE, SHELL), "the program has ended")
    assert [record.args[0] for record in caplog.records] == ["python3", "bash"]  # type: ignore[index]


async def test_none_makes_room_for_what_was_wanted_before_it(pool: Pool) -> None:
    async with lent(pool, SHELL):
        pass
    await held(pool, 1)
    async with lent(pool, PYTHON):
        pass
    await held(pool, 2)
    pool.held._refill._wanted.append((SHAPE, SHELL))
    pool.held._wants.add((SHAPE, PYTHON))
    pool.held._refill._look()
    assert {one.key[1] for one in pool.held._held} == {PYTHON, SHELL}
    assert not pool.held._refill._wanted  # there are enough, and no job will end


async def test_what_has_no_room_yet_is_started_later(pool: Pool) -> None:
    async with lent(pool) as first:
        async with lent(pool) as second:
            assert await told(second) == "up\n"
            assert await told(first) == "up\n"
        await held(pool, 1)
    await held(pool, 2)


async def test_none_is_started_while_jobs_may_wait(pool: Pool) -> None:
    async with lent(pool):
        pass
    async with lent(pool, SHELL), lent(pool, PERL):
        async with asyncio.timeout(20):
            while pool.held._refill._timer is not None or pool.held._ending:
                await asyncio.sleep(0.01)
        assert pool.held._held == []


async def test_one_that_dies_is_no_more(pool: Pool) -> None:
    async with lent(pool):
        pass
    before = descendants()
    await held(pool, 1)
    (pid,) = (
        pid
        for pid, name in descendants().items()
        if pid not in before and name.startswith("python")
    )
    os.kill(pid, signal.SIGKILL)
    await held(pool, 0)
    async with lent(pool) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox) == "up\n"


async def test_one_whose_sandbox_dies_is_no_more(pool: Pool) -> None:
    async with lent(pool):
        pass
    await held(pool, 1)
    (one,) = pool.held._held
    init = one.opening.result()._driver._init_pid  # type: ignore[attr-defined]
    os.kill(init, signal.SIGKILL)
    await held(pool, 0)
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"


async def test_one_that_nobody_wants_is_ended(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.0)
    async with lent(pool):
        pass
    async with asyncio.timeout(20):
        while not pool.held._held:
            await asyncio.sleep(0)
    await held(pool, 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("changed", ["a file that it shows", "its program"])
async def test_one_from_before_a_change_of_the_host_is_given_up(
    pool: Pool, folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(lookout, "LOOK_S", 0.01)
    (shown := folder / "shown").write_text("old")
    shape = replace(SHAPE, read_only=(str(shown),))
    program = replace(PYTHON, env=(("PATH", f"{folder}:/usr/bin:/bin"), ("HOME", "")))
    async with lent(pool, program, shape):
        pass
    await held(pool, 1)
    if changed == "its program":
        (folder / "python3").touch()  # as a newer one, in /usr/local/bin
    else:
        os.utime(shown, ns=(1, 1))
    await held(pool, 0)
    (folder / "python3").unlink(missing_ok=True)
    async with lent(pool, program, shape) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox) == "up\n"
    await held(pool, 1)
    async with lent(pool, program, shape) as sandbox:
        assert sandbox.waits


async def test_what_a_job_has_taken_is_not_given_up(
    pool: Pool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LOOK_S", 0.01)
    (shown := folder / "shown").write_text("old")
    shape = replace(SHAPE, read_only=(str(shown),))
    async with lent(pool, PYTHON, shape):
        pass
    await held(pool, 1)
    async with lent(pool, PYTHON, shape) as sandbox:
        changed = asyncio.Event()
        seen = await pool.lookout.seen([str(shown)])
        pool.lookout.watch(seen, lambda _: changed.set(), content=True)
        os.utime(shown, ns=(1, 1))
        await changed.wait()
        assert await told(sandbox) == "up\n"


async def test_one_that_does_not_show_what_is_new_on_the_host_is_not_lent(pool: Pool) -> None:
    shows = pool.held._shows
    async with lent(pool):
        pass
    await held(pool, 1)
    pool.held._shows = lambda shape, program: (*shows(shape, program), "/etc/new")
    async with lent(pool) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox) == "up\n"
    await held(pool, 1)
    async with lent(pool) as sandbox:
        assert sandbox.waits


def test_a_program_is_what_is_at_the_first_place_in_its_path(need: Callable[[str], str]) -> None:
    need("bwrap")
    with pool_of() as pool:
        shown = pool._shows(SHAPE, None)
        assert "/usr" in shown
        more = pool._shows(replace(SHAPE, read_only=("/opt",)), None)
        assert {*more} - {*shown} == {"/opt"}
        assert {*pool._shows(SHAPE, PYTHON)} - {*shown} == {"/usr/bin/python3", "/bin/python3"}
        given = replace(PYTHON, argv=("/opt/python3", "main.py"))
        assert {*pool._shows(SHAPE, given)} - {*shown} == {"/opt/python3"}


async def test_a_program_that_cannot_be_held_is_started_by_its_job(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "HOLD_S", 0.05)
    for _ in range(2):
        async with lent(pool, SPINS):
            pass
        async with asyncio.timeout(20):
            while not pool.held._retry_at or pool.held._ending:
                await asyncio.sleep(0.01)
    assert caplog.text.count("is not started ahead in bwrap: it was not held within 0.05 s") == 1
    assert pool.held._held == []
    missing = replace(PYTHON, argv=("no-such-program",))
    async with lent(pool, missing):
        pass
    async with asyncio.timeout(20):
        while (SHAPE, missing) not in pool.held._retry_at:
            await asyncio.sleep(0.01)
    assert "no-such-program is not started ahead in bwrap: the program has ended" in caplog.text
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"


async def test_a_sandbox_that_cannot_be_opened_ahead_is_no_failure_of_a_job(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    opened = pool.held._open

    async def fails(shape: Shape, program: Program | None) -> Sandbox:
        raise SandboxFailure("not today")

    async with lent(pool):
        pool.held._open = fails
    async with asyncio.timeout(20):
        while not pool.held._retry_at:
            await asyncio.sleep(0.01)
    pool.held._open = opened
    assert "python3 is not started ahead in bwrap: not today" in caplog.text
    async with lent(pool) as sandbox:
        assert await told(sandbox) == "up\n"


async def test_a_job_that_gives_up_while_it_waits_leaves_nothing(pool: Pool) -> None:
    async with lent(pool):
        pass
    async with asyncio.timeout(20):
        while not pool.held._held:
            await asyncio.sleep(0)
    waiting = asyncio.create_task(pool.lend(SHAPE, PYTHON))
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await (await waiting).close()
    assert pool.held._refill.jobs == 0


async def test_without_a_program_a_sandbox_waits_for_any_job_of_its_shape(pool: Pool) -> None:
    async with lent(pool, None):
        pass
    await held(pool, 1)
    async with lent(pool, SHELL) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox, SHELL) == "up\n"
    assert (pool.held.ahead.opened, pool.held.ahead.warm, pool.held.ahead.cold) == (1, 0, 1)


async def test_where_no_program_can_be_held_only_sandboxes_are(pool: Pool) -> None:
    pool.held.tried("bwrap", "nobody may be traced")
    async with lent(pool):
        pass
    await held(pool, 1)
    async with lent(pool) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox) == "up\n"
    assert pool.held.ahead.opened == 1


async def test_a_backend_that_does_not_want_it_has_none_opened(pool: Pool) -> None:
    pool.held.tried("bwrap", "no", opens=False)
    async with lent(pool):
        pass
    assert not pool.held._refill._wanted
    assert pool.held._refill._timer is None
    assert pool.held.why_not("firejail") == NOT_TESTED
    async with lent(pool, None, replace(SHAPE, backend="plain")):
        pass
    assert pool.held._refill._timer is None


async def test_none_is_started_once_it_is_stopped(pool: Pool) -> None:
    async with lent(pool), lent(pool, SHELL):
        pass
    await held(pool, 2)
    pool.held.stop()
    async with lent(pool) as sandbox:
        assert not sandbox.waits
        assert await told(sandbox) == "up\n"
    await held(pool, 0)

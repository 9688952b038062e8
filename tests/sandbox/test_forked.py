"""Programs that are forked from one interpreter: what they share, and when it is another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from streamer.errors import SandboxFailure
from streamer.model.capabilities import NOT_TESTED
from streamer.model.job import SourceFile
from streamer.sandbox import forks as forks_module
from streamer.sandbox.drivers import forking
from streamer.sandbox.forks import ForkBounds, Forks
from streamer.sandbox.pool import Pool
from streamer.sandbox.stdio import Stdio
from tests.running import descendants
from tests.sandbox.facts import FACTS, in_common, of_any_two
from tests.sandbox.forking import (
    ENV,
    PROGRAM,
    SHAPE,
    Customize,
    forking_pool,
    holding,
    program,
    ran,
    ran_in,
)
from tests.sandbox.templated import LIMITS

SEED: Final = "print(hash('a text'))"
"""The same in the programs of one interpreter, and in no others."""


@pytest.fixture(params=["auto", "off"], ids=["groups", "no-groups"])
async def pool(request: pytest.FixtureRequest, need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with forking_pool(cgroup=request.param) as opened:
        yield opened


async def seeds(pool: Pool, count: int, what: Any = PROGRAM) -> list[str]:
    found = []
    for _ in range(count):
        way, said = await ran(pool, SEED, what)
        assert way == "forked"
        found.append(said)
    return found


# -- what they share ----------------------------------------------------------------------


async def shared(pool: Pool, what: Any = PROGRAM, *, way: str) -> set[str]:
    """Return the names of the facts that two jobs have in common."""
    told = []
    for _ in range(2):
        made, said = await ran(pool, FACTS, what)
        assert made == way
        told.append(said)
    return in_common(told)


async def test_they_share_their_layout_and_the_seed_of_hashes_and_nothing_else(pool: Pool) -> None:
    found = await shared(pool, way="forked")
    print(*sorted(found), sep="\n")  # noqa: T201 - for who runs this test
    (libc,) = {name for name in found if "libc" in name}
    (python,) = {name for name in found if "address of python" in name}
    guards = (
        {"guard of the stack", "guard of pointers"} if platform.machine() == "x86_64" else set()
    )
    assert found == {
        libc,
        python,
        "address of [heap]",
        "address of [stack]",
        "address of [vdso]",
        "address of an object",
        "hash of a text",
        *guards,
    }


async def test_programs_that_are_executed_share_nothing_of_that(pool: Pool) -> None:
    found = await shared(pool, replace(PROGRAM, fork=None), way="template")
    assert found <= of_any_two()


async def test_modules_that_the_operators_packages_import_are_told_of_the_fork(
    pool: Pool, customized: Customize
) -> None:
    what, shape = customized("import random, uuid, tempfile, ssl, secrets")
    code = (
        "import sys; assert 'random' in sys.modules; import random, uuid, tempfile, ssl\n"
        "print(random.random(), uuid.uuid4(), tempfile.mktemp(), ssl.RAND_bytes(8).hex())"
    )
    pool.forks.wanted(shape, what)
    (first, one), (second, other) = [await ran(pool, code, what, shape) for _ in range(2)]
    assert (first, second) == ("forked", "forked")
    assert not set(one.split()) & set(other.split())


# -- a forked program is one that was executed --------------------------------------------


async def test_the_c_library_knows_the_thread_and_the_processor(pool: Pool) -> None:
    code = """
import ctypes, os, threading, time
libc = ctypes.CDLL(None)
for processor in os.sched_getaffinity(0):
    os.sched_setaffinity(0, {processor})
    assert libc.sched_getcpu() == processor, (libc.sched_getcpu(), processor)
while time.thread_time() < 0.1:
    pass
assert time.clock_gettime(time.pthread_getcpuclockid(threading.get_ident())) >= 0.1
head, size = ctypes.c_void_p(), ctypes.c_size_t()
number = {"x86_64": 274, "aarch64": 100}[os.uname().machine]
assert libc.syscall(number, 0, ctypes.byref(head), ctypes.byref(size)) == 0
assert head.value and size.value == 24, (head.value, size.value)
assert libc.gettid() == os.getpid()
print("known")
"""
    assert await ran(pool, code) == ("forked", "known\n")


async def test_its_threads_have_the_stack_that_they_would_have(pool: Pool) -> None:
    code = """
import ctypes
libc, attributes, size = ctypes.CDLL(None), ctypes.create_string_buffer(64), ctypes.c_size_t()
assert libc.pthread_getattr_default_np(attributes) == 0
assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
print(size.value)
"""
    what = program(limits=replace(LIMITS, stack_bytes=3 * 2**20))
    pool.forks.wanted(replace(SHAPE, limits=what.limits), what)
    assert await ran(pool, code, what) == ("forked", f"{3 * 2**20}\n")


async def test_programs_of_an_older_c_library_find_their_functions(pool: Pool) -> None:
    code = """
import ctypes, os
libc, to = ctypes.CDLL(None), ctypes.create_string_buffer(1024)
version = int(os.uname().machine == "x86_64")
assert libc.__xstat64(version, b"/etc/passwd", to) == 0
assert libc.__lxstat64(version, b"/nowhere", to) == -1
assert libc.__fxstatat64(version, -100, b"/etc/passwd", to, 0) == 0
print("found")
"""
    assert await ran(pool, code) == ("forked", "found\n")


async def test_another_program_in_such_a_sandbox_is_executed(pool: Pool) -> None:
    await seeds(pool, 1)
    sandbox = await pool.lend(SHAPE, PROGRAM)
    assert sandbox.way == "forked"
    other = program(argv=("python3", "-I", "main.py"))
    isolated = "import sys; print(sys.flags.isolated)"
    assert await ran_in(sandbox, isolated, other) == "1\n"
    await sandbox.close()


async def test_the_next_program_of_a_sandbox_is_executed(pool: Pool) -> None:
    sandbox = await pool.lend(SHAPE, PROGRAM)
    assert sandbox.way == "forked"
    assert await ran_in(sandbox, SEED) != await ran_in(sandbox, SEED)
    await sandbox.close()


async def test_a_forked_program_waits_for_its_job(pool: Pool) -> None:
    (usual,) = await seeds(pool, 1)
    sandbox = await holding(pool)
    assert sandbox.waits
    assert await ran_in(sandbox, f"{SEED}") == usual
    await sandbox.close()


async def test_another_program_takes_the_place_of_one_that_waits(pool: Pool) -> None:
    sandbox = await holding(pool)
    other = program(argv=("python3", "-I", "main.py"))
    assert await ran_in(sandbox, "import sys; print(sys.flags.isolated)", other) == "1\n"
    await sandbox.close()


async def test_one_that_died_while_it_waited_is_executed(pool: Pool) -> None:
    (usual,) = await seeds(pool, 1)
    before = descendants()
    sandbox = await holding(pool)
    [waiting] = [
        pid for pid, name in descendants().items() if pid not in before and name == "python3"
    ]
    os.kill(waiting, signal.SIGKILL)
    async with asyncio.timeout(20):
        while sandbox.waits:
            await asyncio.sleep(0)
    assert not sandbox.may_be_lent
    assert await ran_in(sandbox, SEED) != usual
    await sandbox.close()


async def test_one_that_waits_ends_with_its_sandbox(pool: Pool) -> None:
    before = descendants()
    sandbox = await holding(pool)
    await sandbox.close()
    assert {pid for pid in descendants() if pid not in before} == set(pool.templates.pids)


async def test_nothing_of_it_is_in_the_sandbox(pool: Pool) -> None:
    code = """
import os
print(sorted(os.listdir("/")), sorted(os.listdir("/proc/self/fd")), os.getppid())
print(open("/proc/1/comm").read(), open("/proc/self/comm").read())
print(open("/proc/self/cmdline").read().split("\\0"))
print(open("/proc/self/environ").read().split("\\0"), os.environ)
print([name for name in os.listdir("/proc") if name.isdigit()])
"""
    executed = await ran(pool, code, replace(PROGRAM, fork=None))
    assert await ran(pool, code) == ("forked", executed[1])
    sandbox = await holding(pool)
    assert await ran_in(sandbox, code) == executed[1]
    await sandbox.close()


# -- who has one --------------------------------------------------------------------------


async def test_one_interpreter_serves_many_jobs(pool: Pool) -> None:
    first, *others = await seeds(pool, 3)
    assert others == [first, first]
    assert pool.forks.count == 3


@pytest.mark.parametrize(
    "other",
    [
        program(tenant="another"),
        program(env={**ENV, "PYTHONUNBUFFERED": "1"}),
        program(limits=replace(LIMITS, wall_time_s=59)),
        program(argv=("python3", "-s", "main.py")),
    ],
    ids=["tenant", "variables", "limits", "arguments"],
)
async def test_others_have_another_interpreter(pool: Pool, other: Any) -> None:
    pool.forks.wanted(replace(SHAPE, limits=other.limits), other)
    mine, theirs, again = (
        *await seeds(pool, 1),
        *await seeds(pool, 1, other),
        *await seeds(pool, 1),
    )
    assert mine == again != theirs


async def test_a_program_that_runs_once_gets_no_interpreter(pool: Pool) -> None:
    once = program(tenant="another")
    assert (await ran(pool, SEED, once))[0] == "template"
    assert (await ran(pool, SEED, once))[0] == "forked"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to lend")
async def test_a_job_gets_the_user_whose_interpreter_waits_for_it(pool: Pool) -> None:
    (first,) = await seeds(pool, 1)
    others = [await pool.lend(SHAPE) for _ in range(2)]
    await others[0].close()
    await others[1].close()
    assert await seeds(pool, 1) == [first]


async def test_a_program_is_forked_though_an_open_sandbox_waits(pool: Pool) -> None:
    pool.held.tried("bwrap", "")
    pool.held._refill._processors.count = 1000  # whatever else runs on this machine
    other = replace(PROGRAM, fork=None, holds=False)
    assert await ran(pool, "print(1)", other) == ("template", "1\n")
    async with asyncio.timeout(20):
        while not pool.held.ahead.held.get("bwrap"):
            await asyncio.sleep(0.01)
    sandbox = await pool.lend(SHAPE, PROGRAM)
    assert sandbox.way == "forked"
    assert pool.held.ahead.held["bwrap"] == 1
    await sandbox.close()


# -- when it is replaced ------------------------------------------------------------------


async def test_it_is_replaced_after_so_many_jobs(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with forking_pool(ForkBounds(jobs=2)) as pool:
        one, two, three, four, five = await seeds(pool, 5)
    assert one == two != three == four != five


async def test_those_that_wait_until_it_has_come_up_count(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with forking_pool(ForkBounds(jobs=2)) as pool, contextlib.AsyncExitStack() as lent:
        user = None if pool._users is None else await lent.enter_async_context(pool._users.lend())
        bwrap = pool._backends["bwrap"]
        job = pool._described(SHAPE, "many", None if user is None else bwrap.run_as(user))
        plan = pool._template_plan(bwrap, job, for_trial=False)
        assert plan is not None
        found = await asyncio.gather(
            *(
                lent.enter_async_context(pool.templates.lent(plan, job.shown, PROGRAM))
                for _ in range(6)
            )
        )
        assert [*Counter(found).values()] == [2, 2, 2]


async def test_it_is_replaced_when_it_is_old(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with forking_pool(ForkBounds(age_s=0)) as pool:
        assert len(set(await seeds(pool, 3))) == 3


async def test_it_is_replaced_when_another_is_installed(pool: Pool, tmp_path: Path) -> None:
    what = program(env={**ENV, "PATH": f"{tmp_path}:{ENV['PATH']}"})
    pool.forks.wanted(SHAPE, what)
    await seeds(pool, 1, what)
    (kept,) = pool.templates._kept.values()
    (tmp_path / "python3").touch()
    async with asyncio.timeout(20):
        await kept.template.gone.wait()


async def test_a_job_may_still_run_in_one_that_is_replaced(need: Callable[[str], str]) -> None:
    need("bwrap")
    async with forking_pool(ForkBounds(jobs=1)) as pool:
        sandbox = await pool.lend(SHAPE, PROGRAM)
        await seeds(pool, 1)
        assert int(await ran_in(sandbox, SEED))
        await sandbox.close()
        assert not pool.templates._retired


async def test_one_that_died_is_replaced(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    (first,) = await seeds(pool, 1)
    (kept,) = pool.templates._kept.values()
    os.kill(kept.template._hello.result(), signal.SIGKILL)
    await kept.template.gone.wait()
    assert await seeds(pool, 1) != [first]
    assert "another is started" in caplog.text


async def test_a_job_ends_with_its_interpreter(pool: Pool) -> None:
    sandbox = await pool.lend(SHAPE, PROGRAM)
    await sandbox.put_files((SourceFile("main.py", b"import time; time.sleep(600)"),), LIMITS)
    running = await sandbox.run(PROGRAM.run(sandbox.home, Stdio.null()))
    (kept,) = pool.templates._kept.values()
    os.kill(kept.template._hello.result(), signal.SIGKILL)
    with pytest.raises(SandboxFailure, match="the init ended"):
        await running.ended
    await sandbox.close()
    await kept.template.gone.wait()
    assert (await ran(pool, SEED))[0] == "forked"


async def test_it_has_the_signals_of_a_program_whatever_those_of_the_service(pool: Pool) -> None:
    code = (
        "import signal as s\n"
        "print(s.getsignal(2) is s.default_int_handler, s.getsignal(1) == s.SIG_DFL, "
        "s.pthread_sigmask(0, []))"
    )
    before = (
        signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    try:
        way, said = await ran(pool, code)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert (way, said) == ("forked", "True True set()\n")


async def test_a_tenant_with_a_name_has_at_most_half_of_the_places(pool: Pool) -> None:
    pool.templates._most = 4

    async def seed_of(tenant: str, wall_time_s: float) -> str:
        what = program(tenant=tenant, limits=replace(LIMITS, wall_time_s=wall_time_s))
        pool.forks.wanted(replace(SHAPE, limits=what.limits), what)
        way, said = await ran(pool, SEED, what)
        return said if way == "forked" else way

    first = await seed_of("a", 1)
    assert int(await seed_of("a", 2))
    assert await seed_of("a", 3) == "template"
    for kept in pool.templates._kept.values():
        kept.used_at = 0  # long ago
    assert int(await seed_of("a", 3))
    assert await seed_of("a", 1) != first


async def test_its_place_is_one_of_the_templates(pool: Pool) -> None:
    pool.templates._most = 1
    (first,) = await seeds(pool, 1)
    other = program(tenant="another")
    pool.forks.wanted(SHAPE, other)
    assert (await ran(pool, SEED, other))[0] == "own"
    assert await seeds(pool, 1) == [first]


# -- where it does not work ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("bash", "main.sh"), "PyGILState_Ensure: Function not implemented"),
        (("true",), "the template has ended"),
        (("nowhere",), "nowhere: No such file or directory"),
        (("python3", "-c", "pass"), "the template has ended"),
    ],
    ids=["bash", "no hook", "no program", "no file"],
)
async def test_what_cannot_be_forked_is_started(
    pool: Pool, argv: tuple[str, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = program(argv=argv)
    pool.forks.wanted(SHAPE, other)
    sandbox = await pool.lend(SHAPE, other)
    assert sandbox.way == "template"
    await sandbox.close()
    assert why in caplog.text
    await (await pool.lend(SHAPE, other)).close()
    assert caplog.text.count(why) == 1  # it is not tried again for some time
    assert await ran(pool, "print(1)") == ("forked", "1\n")


async def test_what_callers_let_fail_is_no_matter_to_others(pool: Pool) -> None:
    (first,) = await seeds(pool, 1)
    for number in range(forks_module.MAX_FAILURES):
        # As with a stack that is too small for Python.
        other = program(argv=("true",), limits=replace(LIMITS, wall_time_s=1 + number))
        for _ in range(2):
            assert (await ran(pool, "", other))[0] == "template"
    assert await seeds(pool, 1) == [first]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import threading as t, time; t.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "has started a thread before its job",
        ),
        (
            "import subprocess; subprocess.Popen(['/bin/sleep', '60'])",
            "has started a program before its job",
        ),
        ("import sys; sys.kept = open('/etc/passwd')", "has opened a file before its job"),
        (
            "import mmap, sys; sys.kept = mmap.mmap(-1, 4096)",
            "has memory that its jobs would share",
        ),
        (
            "import mmap, sys; sys.kept = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)",
            "has memory that its jobs would share",
        ),
        # As pid 1 it is the interpreter; a program would say it in its own output.
        (
            "import os; os.getpid() == 1 and os.write(1, b'x')",
            "has written something before its job",
        ),
        (
            "import os; os.getpid() == 1 and os.write(2, b'x')",
            "has written something before its job",
        ),
    ],
    ids=["thread", "child", "file", "memory", "memory that is read", "output", "complaint"],
)
async def test_an_interpreter_that_a_fork_does_not_copy_as_it_is_serves_no_job(
    pool: Pool,
    customized: Customize,
    code: str,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    what, shape = customized(code)
    pool.forks.wanted(shape, what)
    assert (await ran(pool, "print(1)", what, shape)) == ("template", "1\n")
    assert f"the interpreter {why}" in caplog.text


async def test_without_the_library_programs_are_started(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "LIBRARY", "nothing.so")
    assert await ran(pool, "print(1)") == ("template", "1\n")
    assert "nothing.so is not built" in caplog.text


async def test_what_does_not_fit_into_a_message_is_started(pool: Pool) -> None:
    other = program(env={**ENV, "LONG": "x" * 20_000})
    pool.forks.wanted(SHAPE, other)
    assert await ran(pool, "print(1)", other) == ("template", "1\n")


def test_after_failures_it_must_be_tested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = Forks(ForkBounds())
    doubts: list[int] = []
    forks.on_doubt = lambda: doubts.append(1)
    assert forks.why_not("bwrap", "python") == NOT_TESTED
    assert forks.needs_test("bwrap", "python")
    assert not forks.may("bwrap", PROGRAM)
    forks.tried("bwrap", "python", "")
    assert forks.may("bwrap", PROGRAM)
    assert not forks.may("bwrap", replace(PROGRAM, fork=None))
    assert not forks.may("firejail", PROGRAM)
    broken = SandboxFailure("it is broken")
    forks.failed("bwrap", PROGRAM, broken)
    assert not forks.may("bwrap", PROGRAM)
    assert not forks.may("bwrap", replace(PROGRAM, holds=False))
    assert forks.may("bwrap", program(tenant="another"))
    monkeypatch.setattr(forks_module, "RETRY_S", 0)
    forks.failed("bwrap", PROGRAM, broken)
    assert forks.may("bwrap", PROGRAM)
    assert not doubts
    assert not forks.needs_test("bwrap", "python")
    forks.failed("bwrap", PROGRAM, broken)
    assert doubts == [1]
    assert forks.needs_test("bwrap", "python")
    assert forks.may("bwrap", PROGRAM)  # the test decides
    forks.tried("bwrap", "python", "it is broken")
    assert not forks.may("bwrap", PROGRAM)
    forks.tried("bwrap", "python", "")
    assert not forks.needs_test("bwrap", "python")
    forks.failed("bwrap", PROGRAM, broken)
    forks.worked("bwrap", PROGRAM)
    for _ in range(2):
        forks.failed("bwrap", PROGRAM, broken)
    assert doubts == [1]


def test_only_some_programs_that_failed_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    forks = Forks(ForkBounds())
    forks.tried("bwrap", "python", "")
    for number in range(forks_module.MOST_KNOWN + 1):
        forks.failed("bwrap", program(tenant=str(number)), SandboxFailure("it is broken"))
    assert forks.may("bwrap", program(tenant="0"))
    assert not forks.may("bwrap", program(tenant="1"))
    assert caplog.text.count("it is broken") == 1  # callers choose how often it fails


def test_only_some_programs_are_remembered() -> None:
    forks = Forks(ForkBounds())
    forks.tried("bwrap", "python", "")
    for known in (None, PROGRAM):
        forks.wanted(SHAPE, PROGRAM)
        assert forks.chosen(SHAPE, PROGRAM) == known
        assert forks.chosen(SHAPE, PROGRAM) == known  # ahead of a job that may never come
    for number in range(forks_module.MOST_KNOWN):
        forks.wanted(SHAPE, program(tenant=str(number)))
    assert forks.chosen(SHAPE, PROGRAM) is None


async def test_no_copy_of_the_library_is_left(pool: Pool) -> None:
    before = descendants()
    await seeds(pool, 1)
    names = [
        os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)
    ]
    assert not [name for name in names if "memfd" in name]
    assert len(descendants()) > len(before)


def _is_open(fd: str) -> bool:
    return Path(f"/proc/self/fd/{fd}").is_symlink()

"""Jobs with cases: one compilation, a sandbox and a verdict for each case."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from streamer.compose import Parts
from streamer.engine.memory.lease import MemoryLease
from streamer.jobs.job import Job
from streamer.model.events import CaseEnd, Output, Status, Truncated
from streamer.model.job import Case, JobSpec, Limits
from streamer.model.runtime import Runtime
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.worker.execution import Execution
from tests.conftest import OpenService
from tests.running import Ran, ended, run_job, script
from tests.support import until_stored

MADE: Final = Runtime(
    name="made",
    entry="make.sh",
    compile=("sh", "make.sh"),
    run=("sh", "./made/program"),
)
"""A language whose compiler is the job's own script."""
MAKE: Final = """
mkdir made
echo compiling
cat > made/program <<'END'
{program}
END
"""


async def opened(open_service: OpenService, backend: str = "bwrap", **sections: Any) -> Parts:
    without = {"compile_cache": {"max_bytes": 0}}
    return await open_service(backend, runtimes=[MADE], **{**without, **sections})


def made(program: str, *cases: Case, **fields: Any) -> dict[str, Any]:
    """Return the fields of a job that compiles a shell program and runs the cases."""
    return {"language": "made", "code": MAKE.format(program=program), "cases": cases, **fields}


def ends(ran: Ran) -> list[CaseEnd]:
    """Return the verdicts, which the last event must repeat."""
    told = [event.data for event in ran.events if isinstance(event.data, CaseEnd)]
    assert ran.complete.cases == tuple(told)
    return told


def outputs(ran: Ran) -> dict[int | None, str]:
    """Return what each case, and under None the compiler, has written."""
    texts: dict[int | None, str] = {}
    for event in ran.events:
        if isinstance(event.data, Output):
            assert (event.data.case is None) == (event.data.phase == "compile")
            texts[event.data.case] = texts.get(event.data.case, "") + event.data.data
    return texts


def told(ran: Ran) -> list[str]:
    return [f"{end.reason} {end.signal or end.exit_code}" for end in ends(ran)]


async def test_one_compilation_and_a_run_for_each_case(
    backend: str, open_service: OpenService
) -> None:
    service = await opened(open_service, backend)
    program = 'read line; echo "$line $* $GREETING $OTHER"'
    cases = (
        Case(stdin=b"one", name="the first"),
        Case(args=("x",), env={"GREETING": "ahoy", "OTHER": "more"}),
        Case(args=()),
    )
    ran = await run_job(
        service,
        **made(program, *cases, args=("y",), env={"GREETING": "hello"}, stdin=b"of the job"),
    )
    assert outputs(ran) == {
        None: "compiling\n",
        0: "one y hello \n",
        1: "of the job x ahoy more\n",
        2: "of the job  hello \n",
    }
    assert told(ran) == ["exited 0"] * 3
    assert [(end.index, end.name) for end in ends(ran)] == [(0, "the first"), (1, None), (2, None)]
    assert ran.verdict == "exited 0"
    states = [event.data.state for event in ran.events if isinstance(event.data, Status)]
    assert states == ["queued", "preparing", "compiling", "running"]
    assert ran.complete.duration_ms >= sum(end.duration_ms for end in ends(ran))
    assert [end.output_bytes for end in ends(ran)] == [13, 23, 19]
    assert ran.complete.output_bytes == 10 + 13 + 23 + 19
    await until_stored(service.engine.blobs, 0)


async def test_a_verdict_comes_after_the_output_of_its_case_and_before_the_next(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    ran = await run_job(service, **made("echo 1; echo 2 >&2", Case(), Case()))
    seen = [
        event.data.index if isinstance(event.data, CaseEnd) else event.data.case
        for event in ran.events
        if isinstance(event.data, CaseEnd | Output)
    ]
    assert seen == [None, 0, 0, 0, 1, 1, 1]


async def test_the_end_waits_for_the_verdict_of_the_last_case(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened(open_service)
    append, close, closed = MemoryLease.append, Sandbox.close, asyncio.Event()

    async def far_away(lease: MemoryLease, batch: Any) -> None:
        if batch[-1][0] == "case":
            await closed.wait()  # that of the case, after which nothing else is left to do
            for _ in range(1000):
                await asyncio.sleep(0)
        await append(lease, batch)

    async def close_one(sandbox: Sandbox) -> None:
        await close(sandbox)
        closed.set()

    monkeypatch.setattr(MemoryLease, "append", far_away)
    monkeypatch.setattr(Sandbox, "close", close_one)
    ran = await run_job(service, command=("true",), cases=(Case(),))
    assert told(ran) == ["exited 0"]


PROGRAM = """
case $1 in
exit) exit 3;;
signal) kill -SEGV $$;;
sleep) sleep 60;;
spin) while :; do :; done;;
loud) while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done;;
esac
echo fine
"""


async def test_each_case_has_its_own_verdict_and_the_first_bad_one_is_the_jobs(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    cases = (
        Case(),
        Case(args=("signal",)),
        Case(args=("sleep",), limits={"wall_time_s": 0.2}),
        Case(args=("spin",), limits={"cpu_time_s": 0.2}),
        Case(args=("loud",), limits={"output_bytes": 1000}),
        Case(args=("exit",)),
        Case(limits={"disk_bytes": 4096}),
        Case(),
    )
    ran = await run_job(service, **made(PROGRAM + "#" * 5000, *cases))
    assert told(ran) == [
        "exited 0",
        "signaled SIGSEGV",
        "wall_time SIGTERM",
        "cpu_time SIGKILL",
        "output_limit SIGKILL",
        "exited 3",
        "disk None",
        "exited 0",
    ]
    assert ran.verdict == "signaled SIGSEGV"
    assert [end.output_truncated for end in ends(ran)] == [False] * 4 + [True] + [False] * 3
    assert ends(ran)[4].output_bytes == 1000
    assert ran.complete.output_truncated
    assert [end.timed_out for end in ends(ran)] == [False, False, True, True] + [False] * 4


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (Case(args=("exit",)), "exited 3"),
        (Case(args=("sleep",), limits={"wall_time_s": 0.2}), "wall_time SIGTERM"),
    ],
)
async def test_the_first_failure_may_be_the_last_case(
    open_service: OpenService, first: Case, verdict: str
) -> None:
    service = await opened(open_service)
    job = made(PROGRAM, Case(), first, Case(), stop_on_failure=True)
    ran = await run_job(service, **job)
    assert told(ran) == ["exited 0", verdict]
    assert ran.verdict == verdict


async def test_without_a_compiler_each_case_gets_the_files_of_the_job(
    backend: str, open_service: OpenService
) -> None:
    service = await open_service(backend)
    ran = await run_job(
        service,
        command=("sh", "main.sh"),
        files=(
            script("main.sh", "cat data/file; echo changed > data/file; cat"),
            script("data/file", "as it was\n"),
        ),
        cases=(Case(stdin=b"a"), Case(stdin=b"b")),
    )
    assert outputs(ran) == {0: "as it was\na", 1: "as it was\nb"}
    states = [event.data.state for event in ran.events if isinstance(event.data, Status)]
    assert states == ["queued", "preparing", "running"]


async def test_a_failed_compilation_is_the_end(open_service: OpenService) -> None:
    service = await opened(open_service)
    ran = await run_job(service, language="made", code="echo no; exit 4", cases=(Case(),))
    assert (ran.verdict, ran.complete.phase, ends(ran)) == ("exited 4", "compile", [])
    assert outputs(ran) == {None: "no\n"}


async def test_the_output_of_all_cases_together_is_limited(open_service: OpenService) -> None:
    service = await opened(open_service)
    cases = tuple(Case() for _ in range(3))
    job = made("head -c 600 /dev/zero | tr '\\0' x", *cases, limits={"output_bytes": 1000})
    ran = await run_job(service, **job)
    assert told(ran)[0] == "exited 0"
    assert [end.reason for end in ends(ran)] == ["exited", "output_limit"]
    assert (ran.complete.reason, ran.complete.output_bytes) == ("output_limit", 1000)


async def test_where_output_is_dropped_all_cases_run(open_service: OpenService) -> None:
    service = await opened(open_service, streams={"on_output_limit": "truncate"})
    cases = (Case(), Case(limits={"output_bytes": 100}), Case())
    job = made("head -c 600 /dev/zero | tr '\\0' x", *cases, limits={"output_bytes": 1000})
    ran = await run_job(service, **job)
    assert told(ran) == ["exited 0"] * 3
    assert [end.output_bytes for end in ends(ran)] == [600, 100, 290]
    (dropped,) = [event.data for event in ran.events if isinstance(event.data, Truncated)]
    assert dropped.dropped_bytes == 500 + 310
    assert ran.complete.output_truncated


async def until_case(job: Job, index: int) -> None:
    async for event in job.events():
        if isinstance(event.data, Output) and event.data.case == index:
            return


async def test_cancelling_ends_all_of_them(open_service: OpenService) -> None:
    service = await opened(open_service)
    program = "echo up; read line; sleep $line"
    cases = (Case(stdin=b"0"), Case(stdin=b"60"), Case(stdin=b"60"))
    job = await service.jobs.submit(JobSpec(**made(program, *cases)))
    await until_case(job, 1)
    await job.cancel()
    ran = await ended(job)
    assert [end.reason for end in ends(ran)] == ["exited", "cancelled"]
    assert ran.verdict == "cancelled SIGTERM"


async def test_a_job_that_is_cancelled_after_a_failure_was_cancelled(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    cases = (Case(stdin=b"0"), Case(stdin=b"60"))
    job = await service.jobs.submit(
        JobSpec(**made("echo up; read line; sleep $line; exit 3", *cases))
    )
    await until_case(job, 1)
    await job.cancel()
    ran = await ended(job)
    assert told(ran) == ["exited 3", "cancelled SIGTERM"]
    assert ran.verdict == "cancelled SIGTERM"


async def test_each_case_has_time_of_its_own_before_its_sandbox_counts_as_stuck(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_in, expected = Execution._stopped_in, list[float]()

    def noted(execution: Execution, seconds: float) -> None:
        expected.append(seconds)
        expect_in(execution, seconds)

    monkeypatch.setattr(Execution, "_stopped_in", noted)
    service = await opened(open_service)
    cases = (Case(), Case(), Case())
    await run_job(service, command=("true",), cases=cases, limits={"wall_time_s": 100})
    assert len([seconds for seconds in expected if seconds > 200]) == len(cases)


async def test_a_signal_goes_to_the_case_that_runs(open_service: OpenService) -> None:
    service = await opened(open_service)
    program = "trap 'exit 5' USR1; echo up; read line || while :; do sleep 0.01; done"
    cases = (Case(stdin=b"go\n"), Case(), Case(stdin=b"go\n"))
    job = await service.jobs.submit(JobSpec(**made(program, *cases)))
    await until_case(job, 1)
    await job.signal("SIGUSR1")
    assert told(await ended(job)) == ["exited 0", "exited 5", "exited 0"]


async def test_when_the_service_stops_there_is_no_verdict_of_a_case(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    job = await service.jobs.submit(JobSpec(**made("echo up; sleep 60", Case(), Case())))
    await until_case(job, 0)
    await service.drain(0)
    ran = await ended(job)
    assert ran.verdict == "error shutting_down"
    assert not [event for event in ran.events if event.kind == "case"]


class Counted:
    """How many sandboxes of a pool are open at a time."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = self.all = 0
        self.places: set[int] = set()
        """How many jobs had a place when one was opened."""
        opening, closing = pool.held._open, Sandbox.close

        async def open_one(*given: Any, **named: Any) -> Sandbox:
            self._now += 1
            self.all += 1
            self.most = max(self.most, self._now)
            self.places.add(pool.held._refill.jobs)
            return await opening(*given, **named)

        async def close_one(sandbox: Sandbox) -> None:
            await closing(sandbox)
            self._now -= 1

        monkeypatch.setattr(pool.held, "_open", open_one)
        monkeypatch.setattr(Sandbox, "close", close_one)


@pytest.mark.parametrize(("room", "most"), [(8, 3), (1, 2), (0, 1)])
async def test_the_next_sandbox_is_opened_ahead_if_there_is_room(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, room: int, most: int
) -> None:
    service = await opened(open_service, sandbox={"warm": False})
    pool = service.worker.pool
    assert pool is not None
    pool.series._left = room
    counted = Counted(pool, monkeypatch)
    ran = await run_job(service, **made("echo up", *(Case() for _ in range(5))))
    assert told(ran) == ["exited 0"] * 5
    assert (counted.most, counted.all) == (most, 6)
    assert counted.places == {1}
    assert pool.series._left == room
    assert pool.held._refill.jobs == 0


KEEP = """
mkdir -p made/inner made/empty
printf 'exit 0' > made/program
printf data > made/inner/file
chmod 755 made/inner/file
head -c 3000000 /dev/zero | tr '\\0' x > made/large
: > made/nothing
ln -s /etc/passwd made/link
ln made/large made/again
mkfifo made/pipe
printf x > "made/$(printf '\\377')"
printf x > made/hidden; chmod 0 made/hidden
printf x > /tmp/outside
"""
LOOK = """
import os, stat
for folder, folders, files in sorted(os.walk(".")):
    for name in sorted(files):
        at = os.stat(os.path.join(folder, name), follow_symlinks=False)
        print(folder, name, at.st_size, stat.filemode(at.st_mode), os.getuid() == at.st_uid)
    print(folder, sorted(folders))
print(open("made/large").read() == "x" * 3000000, os.path.exists("/tmp/outside"))
"""
KEPT = """\
. make.sh {size} -rw-r--r-- True
. ['made']
./made again 3000000 -rw-r--r-- True
./made large 3000000 -rw-r--r-- True
./made nothing 0 -rw-r--r-- True
./made program 6 -rw-r--r-- True
./made ['empty', 'inner']
./made/empty []
./made/inner file 4 -rwxr-xr-x True
./made/inner []
True False
"""


async def test_regular_files_and_folders_are_what_a_case_gets(
    isolating_backend: str, open_service: OpenService
) -> None:
    look = replace(MADE, run=("python3", "-c", LOOK))
    service = await open_service(isolating_backend, runtimes=[look])
    ran = await run_job(service, language="made", code=KEEP, cases=(Case(),))
    assert outputs(ran)[0] == KEPT.format(size=len(KEEP))


async def test_a_workspace_that_cannot_be_read_is_empty_for_the_cases(
    open_service: OpenService,
) -> None:
    service = await opened(open_service)
    ran = await run_job(service, **made("echo up", Case(), code="mkdir made; chmod 0 ."))
    assert ran.complete.reason == "exited"
    assert [end.reason for end in ends(ran)] == ["exited"]
    assert ran.complete.exit_code


async def test_what_is_compiled_counts_while_it_is_kept(open_service: OpenService) -> None:
    service = await opened(open_service, engine={"blob_bytes": 1_000_000})
    job = made("", Case(), code="mkdir made; head -c 2000000 /dev/zero > made/large")
    ran = await run_job(service, **job)
    assert ran.verdict == "error sandbox_error"
    await until_stored(service.engine.blobs, 0)
    again = await run_job(service, **made("echo up", Case()))
    assert told(again) == ["exited 0"]


async def test_files_that_are_too_large_for_any_case(open_service: OpenService) -> None:
    service = await opened(open_service)
    sparse = "mkdir made; for n in 1 2 3 4; do truncate -s 60M made/$n; done"
    ran = await run_job(service, **made("", Case(), code=sparse))
    assert (ran.verdict, ends(ran)) == ("disk 0", [])


async def test_a_sandbox_that_fails_is_the_end_of_the_job(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened(open_service)
    runs: list[int] = []
    start = Sandbox.run

    async def failing(sandbox: Sandbox, run: Any) -> Any:
        runs.append(1)
        if len(runs) == 3:
            await sandbox.close()
        return await start(sandbox, run)

    monkeypatch.setattr(Sandbox, "run", failing)
    ran = await run_job(service, **made("echo up", Case(), Case(), Case()))
    assert ran.verdict == "error sandbox_error"
    assert [event.data.index for event in ran.events if isinstance(event.data, CaseEnd)] == [0]
    await until_stored(service.engine.blobs, 0)


async def test_what_is_not_read_in_time_is_no_fault_of_the_sandbox(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.worker.compilation.STORE_S", 0.0)
    service = await opened(open_service)
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    ran = await run_job(service, **made("echo up", Case()))
    assert ran.verdict == "error sandbox_error"
    assert not begun[-1].failed
    await until_stored(service.engine.blobs, 0)


async def test_the_end_comes_after_every_sandbox_is_closed(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened(open_service, sandbox={"warm": False})
    closing, slow, asked, closed = Sandbox.close, asyncio.Event(), [], []

    async def close(sandbox: Sandbox) -> None:
        asked.append(sandbox)
        if len(asked) == 2:  # that of the first case; the compiler's was before
            await slow.wait()
        await closing(sandbox)
        closed.append(sandbox)

    monkeypatch.setattr(Sandbox, "close", close)
    begun: list[Execution] = []
    service.worker.on_start = begun.append
    program = "echo up; read line; sleep $line"
    cases = (Case(stdin=b"0"), Case(stdin=b"60"), Case(stdin=b"60"))
    job = await service.jobs.submit(JobSpec(**made(program, *cases)))
    await until_case(job, 1)
    await job.cancel()
    while len(closed) < 2:
        await asyncio.sleep(0.001)
    for _ in range(200):
        await asyncio.sleep(0)
    assert not begun[-1].over.is_set()
    slow.set()
    assert (await ended(job)).verdict == "cancelled SIGTERM"


async def test_jobs_with_cases_beside_each_other(open_service: OpenService) -> None:
    service = await opened(open_service, queue={"concurrency": 4})
    cases = tuple(Case(stdin=str(n).encode()) for n in range(4))
    jobs: Sequence[Ran] = await asyncio.gather(
        *(run_job(service, **made("cat", *cases)) for _ in range(8))
    )
    for ran in jobs:
        assert outputs(ran) == {None: "compiling\n", 0: "0", 1: "1", 2: "2", 3: "3"}


async def test_a_case_whose_files_take_too_long_is_no_end_of_the_job(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await opened(open_service)
    put, puts = Sandbox.put_files, []

    async def slow(sandbox: Sandbox, *given: Any) -> None:
        puts.append(sandbox)
        if len(puts) == 2:  # the first are those of the compiler
            await asyncio.Event().wait()
        await put(sandbox, *given)

    monkeypatch.setattr(Sandbox, "put_files", slow)
    cases = (Case(limits={"wall_time_s": 0.3}), Case())
    ran = await run_job(service, **made("echo up", *cases))
    assert [end.reason for end in ends(ran)] == ["wall_time", "exited"]
    assert ran.complete.reason == "wall_time"
    assert outputs(ran)[1] == "up\n"


async def test_a_case_has_its_own_limits(open_service: OpenService) -> None:
    service = await opened(open_service)
    cases = (Case(), Case(limits={"open_files": 20}))
    ran = await run_job(service, **made("ulimit -n", *cases))
    assert outputs(ran) == {None: "compiling\n", 0: f"{Limits().open_files}\n", 1: "20\n"}

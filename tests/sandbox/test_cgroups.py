"""Limit jobs with control groups, if this host allows it, and leave no group behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import streamer
from streamer import spi
from streamer.compose import Parts, build
from streamer.errors import BackendUnavailable
from streamer.model.events import Complete, Output
from streamer.model.job import SourceFile
from streamer.sandbox.cgroups.files import kill, pids
from streamer.sandbox.cgroups.slots import GroupSlot
from streamer.sandbox.cgroups.tree import CgroupTree, _sweep, cgroup_tree
from streamer.sandbox.cgroups.v2 import ownership
from streamer.sandbox.enforcement import enforcement
from streamer.testing.running import SLOWNESS, plugin
from tests.conftest import OpenService
from tests.running import adopt_orphans, descendants, ended, program, run_job

INIT = Path(streamer.__file__).parent / "sandbox" / "init" / "streamer-init"
ROOT = os.geteuid() == 0
MIB = 1024 * 1024
REQUIRED = os.environ.get("STREAMER_REQUIRE_CGROUP")
"""The level that this host must have: without it these tests fail instead of being skipped."""


@pytest.fixture
def tree() -> CgroupTree:
    with cgroup_tree("auto", 12) as found:
        assert REQUIRED in (None, found and found.level)
        if found is None:
            assert not (ROOT and Path("/sys/fs/cgroup/memory/tasks").exists()), "v1 is here"
            pytest.skip("no cgroup is ours to divide: not root, and none is delegated")
        return found


async def end_of(
    backend: str, code: str, cgroup: str = "auto", **limits: float
) -> tuple[Complete, str]:
    config = {"sandbox": {"backend": backend, "cgroup": cgroup}}
    async with build(config) as service:
        job = await service.jobs.submit(
            streamer.JobSpec(language="python", code=code, limits=limits)
        )
        end = await job.result()
        printed = [
            event.data.data async for event in job.events() if isinstance(event.data, Output)
        ]
    assert isinstance(end, Complete)
    return end, "".join(printed)


BOMB = "x = []\nwhile True: x.append(bytearray(10_000_000))"
CHILD = f"""
import os
if os.fork() == 0:
    {BOMB.replace(chr(10), chr(10) + "    ")}
os.wait()
print("the parent goes on as if nothing was")
"""


@pytest.mark.parametrize("cgroup", ["auto", "off"])
@pytest.mark.parametrize("code", [BOMB, CHILD], ids=["one process", "a child"])
async def test_memory_ends_the_job_with_its_verdict(backend: str, code: str, cgroup: str) -> None:
    end, printed = await end_of(backend, code, cgroup, memory_bytes=64 * 1024 * 1024)
    assert (end.reason, end.oom_killed) == ("memory", True)
    # Version 1 kills one process and notifies us: its parent may exit before our own kill.
    if not (code == CHILD and cgroup == "auto" and Path("/sys/fs/cgroup/memory/tasks").exists()):
        assert (end.signal, printed) == ("SIGKILL", "")


async def test_files_over_the_memory_limit_end_the_job_with_its_verdict(
    tree: CgroupTree, open_service: OpenService
) -> None:
    # They are in a tmpfs, so they take memory before any program runs.
    service = await open_service("bwrap")
    big = SourceFile("big", bytes(6 * 1024 * 1024))
    limits = {"memory_bytes": 4 * 1024 * 1024}
    ran = await run_job(service, command=("echo", "up"), files=(big,), limits=limits)
    assert (ran.complete.reason, ran.complete.oom_killed) == ("memory", True)
    assert ran.text() == ""


async def test_a_program_of_a_root_service_finds_its_own_limits(
    tree: CgroupTree, open_service: OpenService, need: Callable[[str], str]
) -> None:
    """Runtimes size themselves by them. Only an ordinary user's groups are within their reach."""
    if not ROOT:
        pytest.skip("what an ordinary user's programs see is no group at all")
    service = await open_service(need("plain"))
    ran = await run_job(
        service,
        **program("""
            import os
            for line in open("/proc/self/cgroup"):
                _, controllers, path = line.rstrip().split(":", 2)
                if "memory" in controllers.split(","):
                    print(open(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read())
                elif not controllers and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
                    print(open(f"/sys/fs/cgroup{path}/memory.max").read())
        """),
        limits={"memory_bytes": 64 * 1024 * 1024},
    )
    assert int(ran.out) == 64 * 1024 * 1024


async def test_cpu_time_that_nobody_reaps_is_counted(tree: CgroupTree, backend: str) -> None:
    code = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.monotonic() + 0.03
        while time.monotonic() < end: pass
        os._exit(0)
    time.sleep(0.02)
"""
    end, _ = await end_of(backend, code, cpu_time_s=0.5, wall_time_s=20)
    assert (end.reason, end.timed_out) == ("cpu_time", True)


async def test_a_reservation_is_no_use(backend: str) -> None:
    code = (
        "import mmap\n"
        "flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE\n"
        "big = mmap.mmap(-1, 64 << 30, flags=flags, prot=mmap.PROT_READ)\nprint('reserved')"
    )
    end, printed = await end_of(backend, code, memory_bytes=64 * 1024 * 1024)
    assert (end.reason, end.exit_code, printed) == ("exited", 0, "reserved\n")


@dataclass(frozen=True)
class Telling(spi.Backend):
    """A wrapper that first writes its groups to standard error, which is read if it fails."""

    name: ClassVar[str] = "telling"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(argv=("/bin/sh", "-c", "cat /proc/self/cgroup >&2; exit 3"))


async def test_a_group_holds_the_job_from_its_first_moment(
    tree: CgroupTree, open_service: OpenService
) -> None:
    with pytest.raises(BackendUnavailable) as caught:
        await open_service("telling", plugins=(plugin(Telling),))
    # Written before anything is started, which is then in the same groups.
    told = caught.value.message
    wanted = {"memory", "pids", "cpuacct"} if tree.level == "cgroup-v1" else {""}
    found = {
        controller
        for line in re.findall(r"\d+:[^\s]+/streamer-\w+/\S+", told)
        for controller in line.split(":")[1].split(",")
    }
    assert wanted <= found, told


async def test_nothing_of_a_job_is_left_in_a_group(
    tree: CgroupTree, open_service: OpenService
) -> None:
    service = await open_service("plain")
    assert service.worker.cgroup_level == tree.level
    assert service.worker.pool is not None
    assert service.worker.pool.cgroups is not None
    ran = await run_job(service, command=("sh", "-c", "setsid sleep 600 & exit 3"))
    assert ran.verdict == "exited 3"
    for root in service.worker.pool.cgroups.roots:
        assert [pid for group in root.glob("*/") for pid in pids(group)] == []


async def test_a_cleared_group_has_nothing_alive_in_it(tree: CgroupTree) -> None:
    adopt_orphans()
    with cgroup_tree("auto", 12) as ours:
        assert ours is not None
        async with GroupSlot(ours).lend(lambda: None) as group:
            script = "for i in 1 2 3 4 5 6 7 8; do setsid sleep 600 & done; echo up; wait"
            process = await asyncio.create_subprocess_exec(
                *(str(INIT), "enter", *group.entry, "--", "sh", "-c", script),
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            assert len(pids(group.folders[0])) == 9
            assert await group.clear()
            assert pids(group.folders[0]) == []
            await process.wait()


@pytest.mark.parametrize(("weight", "shares"), [(25, 256), (100, 1024), (10_000, 102_400)])
def test_all_jobs_together_have_the_configured_weight(weight: int, shares: int) -> None:
    with cgroup_tree("auto", weight) as tree:
        if tree is None:
            pytest.skip("no cgroup is ours to divide: not root, and none is delegated")
        weights = {
            "cpu.shares": shares * (os.cpu_count() or 1),
            "cpu.weight": weight,
        }
        found = {
            name: int((root / name).read_text())
            for root in tree.roots
            for name in weights
            if (root / name).exists()
        }
        assert found, "nothing shares the processors"
        assert found == {name: weights[name] for name in found}


async def test_a_service_gives_its_jobs_the_configured_weight(open_service: OpenService) -> None:
    service = await open_service("plain", sandbox={"cpu_weight": 50})
    pool = service.worker.pool
    assert pool is not None
    if pool.cgroups is None:
        pytest.skip("no cgroup is ours to divide: not root, and none is delegated")
    weights = {"cpu.shares": 512 * (os.cpu_count() or 1), "cpu.weight": 50}
    found = {
        name: int((root / name).read_text())
        for root in pool.cgroups.roots
        for name in weights
        if (root / name).exists()
    }
    assert found, "nothing shares the processors"
    assert found == {name: weights[name] for name in found}


def test_a_process_of_another_namespace_is_not_taken_for_our_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the kernel shows a process outside of this PID namespace (cgroups(7)).
    (tmp_path / "cgroup.procs").write_text("0\n")
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    kill(tmp_path)
    assert killed == []


def test_a_group_that_another_service_sweeps_is_made_again(
    tree: CgroupTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    swept: list[str] = []

    def flock(fd: int, operation: int) -> None:
        if not swept:  # the other was faster
            swept.append(os.readlink(f"/proc/self/fd/{fd}"))
            Path(swept[0]).rmdir()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with cgroup_tree("auto", 12) as found:
        assert found is not None
        assert found.level == tree.level
        assert swept
        assert swept[0] not in map(str, found.roots)
        assert all(root.is_dir() for root in found.roots)


def zombies() -> list[str]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if (state, int(parent)) == ("Z", os.getpid()):
                found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("name", ["plain", "bwrap"])
async def test_a_sandbox_killed_as_a_whole_leaves_no_zombie(
    tree: CgroupTree, need: Callable[[str], str], open_service: OpenService, name: str
) -> None:
    # As the kernel does for memory in version 2; here the orphans come to this process.
    adopt_orphans()
    before = zombies()
    service = await open_service(need(name))
    assert service.worker.pool is not None
    assert service.worker.pool.cgroups is not None
    job = await service.jobs.submit(streamer.JobSpec(language="bash", code="echo up; sleep 600"))
    killed: list[int] = []
    async for event in job.events():
        if event.kind == "output":
            for procs in service.worker.pool.cgroups.roots[0].rglob("cgroup.procs"):
                killed += pids(procs.parent) if procs.parent.name != "templates" else ()
            for pid in killed:  # the death of the init may have ended the others already
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
    assert len(killed) > 1
    assert zombies() == before


async def test_what_a_killed_service_left_is_swept(
    tree: CgroupTree, need: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    need("plain")
    parents = [root.parent for root in tree.roots]
    left = [parent / "streamer-0123456789ab" for parent in parents]
    for folder in left:
        (folder / "job").mkdir(parents=True)
    entry_files = [f"--cgroup={folder / 'job' / 'cgroup.procs'}" for folder in left]
    orphan = await asyncio.create_subprocess_exec(INIT, "enter", *entry_files, "--", "sleep", "600")
    try:
        while not all(pids(folder / "job") for folder in left):
            await asyncio.sleep(0.005)
        with cgroup_tree("auto", 12):
            async with asyncio.timeout(20):  # a service beside may be sweeping them
                while any(folder.exists() for folder in left):
                    await asyncio.sleep(0.005)
        assert await orphan.wait() == -9
        # One service, however many hierarchies it has groups in.
        assert [
            record.message for record in caplog.records if "killed service" in record.message
        ] == ["removing the control groups of a killed service: streamer-0123456789ab"]
    finally:
        if orphan.returncode is None:
            orphan.kill()


@pytest.mark.skipif(not ROOT, reason="only root can be another account")
def test_what_another_accounts_service_left_is_its_own(tree: CgroupTree) -> None:
    # Below a folder of this test's own: any service of root that starts meanwhile sweeps theirs.
    left = [root.parent / f"test-{os.getpid()}" / "streamer-ba9876543210" for root in tree.roots]
    for folder in left:
        (folder / "job").mkdir(parents=True)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            logging.basicConfig(stream=os.fdopen(writing, "w"), force=True)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            _sweep([folder.parent for folder in left])
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        assert os.waitpid(child, 0)[1] == 0
        with os.fdopen(reading) as said:
            assert said.read() == ""
        assert [folder for folder in left if not folder.exists()] == []
    finally:
        for folder in left:
            (folder / "job").rmdir()
            folder.rmdir()
            folder.parent.rmdir()


@dataclass(frozen=True)
class Unconfined(spi.Backend):
    """Neither our init nor a process-id namespace: only the group holds its jobs together."""

    name: ClassVar[str] = "unconfined"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE
    gated: ClassVar[bool] = False

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(
            argv=job.argv, env=dict(job.env), cwd=str(workspace), start_as=job.identity
        )


class Plugin:
    @spi.hookimpl
    def streamer_backends(self) -> list[type[spi.Backend]]:
        return [Unconfined]


@pytest.fixture
async def unconfined(tree: CgroupTree, open_service: OpenService) -> AsyncIterator[Parts]:
    before = zombies()
    yield await open_service("unconfined", plugins=(Plugin(),))
    # Once adopted, what was killed would count to its user's processes in later tests.
    for pid in set(zombies()) - set(before):
        os.waitpid(int(pid), 0)  # noqa: ASYNC222 - dead already


COMETS = """
import os
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        while True:  # each process lives only to start the next
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                pass
            os.setsid()
print("off", flush=True)
"""


@pytest.mark.parametrize("rest", ["", "import time; time.sleep(600)"], ids=["ends", "stays"])
async def test_a_group_ends_what_left_every_other_bond(unconfined: Parts, rest: str) -> None:
    adopt_orphans()
    before = descendants()
    job = await unconfined.jobs.submit(streamer.JobSpec(**program(COMETS + rest)))
    async for event in job.events():
        if rest and event.kind == "output":
            await job.cancel()
    ran = await ended(job)
    assert ran.text() == "off\n"
    assert ran.complete.reason == ("cancelled" if rest else "exited")
    assert descendants() == before


async def test_a_group_measures_where_there_is_no_init(unconfined: Parts) -> None:
    code = "x = b'x' * 40_000_000\nimport time\nwhile time.process_time() < 0.2: pass"
    complete = (await run_job(unconfined, **program(code))).complete
    assert (complete.cpu_time_ms or 0) >= 200
    assert (complete.peak_memory_bytes or 0) > 40_000_000


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            f"import time\nx = b'x' * {48 * MIB}\nwhile time.process_time() < {0.5 * SLOWNESS}: pass",
            "exited",
        ),
        (BOMB, "memory"),
        (f"open('big', 'wb').write(bytes({40 * MIB}))", "exited"),
        ("import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)", "exited"),
    ],
    ids=["use", "kill", "file", "process"],
)
async def test_a_job_is_not_charged_for_the_one_before_it(
    tree: CgroupTree, open_service: OpenService, code: str, reason: str
) -> None:
    adopt_orphans()
    processes = descendants()
    service = await open_service("unconfined", plugins=(Plugin(),), queue={"concurrency": 1})
    limits = {"memory_bytes": 64 * MIB, "processes": 8}
    before = (await run_job(service, **program(code), limits=limits)).complete
    assert before.reason == reason
    small = {"memory_bytes": 32 * MIB, "processes": 2, "cpu_time_s": 0.4 * SLOWNESS}
    after = (await run_job(service, **program("print('up')"), limits=small)).complete
    assert (after.reason, after.exit_code, after.oom_killed) == ("exited", 0, False)
    assert (after.cpu_time_ms or 0) < 400 * SLOWNESS
    assert (after.peak_memory_bytes or 0) < 24 * MIB
    assert descendants() == processes


async def test_a_group_limits_where_there_is_no_init(unconfined: Parts) -> None:
    spin = "import os\nos.fork()\nwhile True: pass"
    complete = (await run_job(unconfined, **program(spin), limits={"cpu_time_s": 0.5})).complete
    assert (complete.reason, complete.timed_out) == ("cpu_time", True)
    limits = {"memory_bytes": 64 * 1024 * 1024}
    complete = (await run_job(unconfined, **program(CHILD), limits=limits)).complete
    assert (complete.reason, complete.oom_killed) == ("memory", True)
    found = enforcement(unconfined.worker.backends["unconfined"], unconfined.worker.cgroup_level)
    assert (found["cpu_time_s"], found["memory_bytes"]) == (
        "polling",
        unconfined.worker.cgroup_level,
    )


@pytest.mark.parametrize(
    ("marks", "whose"),
    [
        ((), "unmarked"),
        (("user.invocation_id",), "systemd's"),
        (("user.invocation_id", "user.delegate"), "delegated"),
    ],
)
def test_systemd_says_whose_a_group_is(tmp_path: Path, marks: Iterable[str], whose: str) -> None:
    for mark in marks:
        os.setxattr(tmp_path, mark, b"1")
    assert ownership(tmp_path) == whose


V2 = Path("/sys/fs/cgroup/unified")
MOVE = """
import os, sys
from pathlib import Path
from streamer.sandbox.cgroups.v2 import hand_down
folder = Path(sys.argv[1])
(folder / "cgroup.procs").write_text(str(os.getpid()))
hand_down(folder, ("hugetlb",))
assert (folder / "cgroup.subtree_control").read_text().split() == ["hugetlb"]
assert Path("/proc/self/cgroup").read_text().splitlines()[-1].endswith("/main")
hand_down(folder, ("hugetlb",))
"""


@pytest.mark.skipif(
    not (ROOT and (V2 / "cgroup.controllers").exists()), reason="needs root and a hybrid host"
)
def test_a_delegated_group_of_version_2_is_made_ready() -> None:
    # This host's version 2 has one controller, which is not ours; the moves are the same.
    folder = V2 / "streamer-test"
    folder.mkdir()
    try:
        (V2 / "cgroup.subtree_control").write_text("+hugetlb")
        done = subprocess.run(
            [sys.executable, "-c", MOVE, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    finally:
        for group in (folder / "main", folder):
            group.rmdir()
        (V2 / "cgroup.subtree_control").write_text("-hugetlb")


async def test_a_full_disk_ends_the_job_with_its_verdict(backend: str) -> None:
    code = """
import time
with open("big", "wb") as file:
    try:
        while True: file.write(bytes(1_000_000))
    except OSError:
        time.sleep(60)
"""
    end, _ = await end_of(backend, code, disk_bytes=20_000_000, wall_time_s=30)
    assert (end.reason, end.timed_out) == ("disk", False)


async def test_too_many_files_end_the_job_with_their_verdict(backend: str) -> None:
    code = """
import time
try:
    for n in range(100_000): open(f"file{n}", "w").close()
except OSError: pass
time.sleep(60)
"""
    end, _ = await end_of(backend, code, disk_bytes=20_000_000, wall_time_s=100, cpu_time_s=200)
    assert end.reason == "disk"

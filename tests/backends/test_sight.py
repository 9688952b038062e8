"""The init sees what its job uses, whatever the job does; otherwise no job runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer.errors import BackendUnavailable
from streamer.sandbox.seccomp.generate import FILTERS
from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob
from streamer.testing.running import plugin
from tests.conftest import OpenService
from tests.running import adopt_orphans, program, run_job
from tests.sandbox.init_peer import INIT, Init


@dataclass(frozen=True)
class Blind(Backend):
    """A sandbox with its own PID namespace and the /proc of another, as in some containers."""

    name: ClassVar[str] = "blind"
    isolation: ClassVar[Isolation] = Isolation.NONE

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        namespaces = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child")
        return LaunchPlan(
            argv=("/usr/bin/unshare", *namespaces, *job.argv),
            cwd=str(workspace),
            workspace=str(workspace),
            start_as=job.identity,
        )


async def test_a_sandbox_whose_processes_cannot_be_seen_is_unavailable(
    open_service: OpenService,
) -> None:
    # With no word of the wrapper, which is not at fault.
    said = r"does not work: the init cannot see the sandbox's processes.*=unconfined\); or name"
    with pytest.raises(BackendUnavailable, match=said):
        await open_service("blind", plugins=(plugin(Blind),))


CLOSED = """
    import ctypes, os, stat
    libc = ctypes.CDLL(None)
    os.mkdir("closed")
    open("closed/file", "w").close()
    os.chmod("closed", {MODE})
    watch = libc.inotify_init1(0)
    assert libc.inotify_add_watch(watch, b".", 0x4) >= 0  # IN_ATTRIB of what is in it
    changes = 0
    while changes < 4:  # opened and closed again, twice
        changes += len(os.read(watch, 4096)) // 32  # the event and the name "closed"
    os.mkdir("end")
    while stat.S_IMODE(os.stat("closed").st_mode) != {MODE}:
        os.read(watch, 4096)
    print("as it was")
"""


@pytest.mark.parametrize("mode", ["0o300", "0"])
async def test_a_folder_that_is_closed_stays_so_and_harms_nobody(
    open_service: OpenService, need: Any, mode: str
) -> None:
    service = await open_service(need("plain"))
    source = CLOSED.replace("{MODE}", mode)
    ran = await run_job(service, **program(source), limits={"wall_time_s": 30})
    assert ran.out == "as it was\n"


@pytest.fixture
def reachable_init() -> Iterator[Path]:
    """Return a copy of the init that another user can execute."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy = Path(name, "init")
        shutil.copy(str(files("streamer.sandbox") / "init" / "streamer-init"), copy)
        copy.chmod(0o755)
        yield copy


GROUPS = """
    cat /proc/sys/user/max_inotify_instances
    ls -A /sys/fs/cgroup | wc -l
    for again in "umount /sys/fs/cgroup" "unshare -Urm umount /sys/fs/cgroup" \
        "unshare -UrmC mount -t cgroup2 x /sys/fs/cgroup" \
        "unshare -Urm mount -t cgroup2 x /sys/fs/cgroup"; do
        $again 2>/dev/null && echo "$again"
    done
    echo end
"""


def test_an_ordinary_users_job_without_isolation_has_no_control_groups(
    reachable_init: Path,
) -> None:
    # Its account may end what is in groups of that account, by cgroup.kill.
    uid = ("setpriv", "--reuid=60999", "--regid=60999", "--clear-groups")
    enter = (str(reachable_init), "enter", "--pid-namespace", "--", "/bin/sh", "-c", GROUPS)
    done = subprocess.run(
        (*(uid if os.geteuid() == 0 else ()), *enter),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split("\n") == ["16", "0", "end", ""]


STARVES = """
    import ctypes, os, platform
    init = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    def refused(operation, *arguments):
        try:
            operation(*arguments)
        except PermissionError:
            return
        print(operation.__name__, arguments)
    idle = (os.SCHED_IDLE, os.sched_param(0))
    refused(os.sched_setscheduler, init, *idle)
    refused(os.sched_setparam, init, os.sched_param(0))
    refused(os.sched_setaffinity, init, os.sched_getaffinity(0))
    for kind in (os.PRIO_PROCESS, os.PRIO_PGRP, os.PRIO_USER):
        refused(os.setpriority, kind, init, 19)
    refused(os.setpriority, os.PRIO_USER, 0, 19)
    refused(os.setpgid, 0, init)
    number = {"x86_64": 251, "aarch64": 30}[platform.machine()]
    assert [libc.syscall(number, kind, init, 3 << 13) for kind in (1, 2, 3)] == [-1] * 3
    # The session's niceness is that of all in it.
    print(os.getsid(0) == os.getsid(init), os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid())
    # Its own is its own, by its number too; whoever runs the tests may be nice already.
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 1, 19)
    for pid in (0, os.getpid()):
        os.sched_setaffinity(pid, os.sched_getaffinity(0))
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        os.setpriority(os.PRIO_PGRP, pid, nice)
        os.sched_setscheduler(pid, *idle)
"""


@pytest.mark.skipif(platform.machine() not in FILTERS, reason="there is no filter for this machine")
@pytest.mark.parametrize("backend", ["bwrap", "firejail", "plain"])
async def test_no_job_takes_the_processor_away_from_the_init(
    open_service: OpenService, need: Any, backend: str
) -> None:
    service = await open_service(need(backend))
    assert (await run_job(service, **program(STARVES))).out == "False False True\n"


FAKE = """
    import os, signal, subprocess, sys
    # Its own /proc files, as the init sees them, who has the same mounts: a host with swap.
    for name, text in {FILES}.items():
        with open(name, "w") as file:  # nobody reads it before it is written
            file.write(text)
        command = ("mount", "--bind", os.path.abspath(name), f"/proc/{os.getpid()}/{name}")
        subprocess.run(command, check=True)
    signal.pause()
"""
STATUS = (
    "Name:\tx\nRssAnon:\t1000 kB\nRssFile:\t0 kB\nRssShmem:\t0 kB\nVmPTE:\t4 kB\nVmSwap:\t{} kB\n"
)
ROLLUP = "x\nPss_Anon: 1000 kB\nPss_Shmem: 0 kB\nSwap: {} kB\nSwapPss: {} kB\n"
IN_CLOSE_NOWRITE = 0x10


@pytest.mark.parametrize(("mine", "cause"), [(90_000, b"m"), (20_000, b"k")])
def test_what_is_in_swap_counts(mine: int, cause: bytes, tmp_path: Path) -> None:
    adopt_orphans()
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    # In mounts of its own, so that nothing else sees the false files.
    command = (
        *("unshare", "--user", "--map-root-user", "--mount", "--mount-proc", "--pid", "--fork"),
        *(INIT, "serve"),
    )
    process = subprocess.Popen(command, stdin=theirs.fileno(), cwd=tmp_path)
    theirs.close()
    init = Init(process, ours)
    assert init.read()[0] == b"H"
    files = {"status": STATUS.format(90_000), "smaps_rollup": ROLLUP.format(90_000, mine)}
    (tmp_path / "main.py").write_text(textwrap.dedent(FAKE.replace("{FILES}", repr(files))))
    with reads_of(tmp_path / "smaps_rollup") as reads:
        init.send_stdio()
        argv = (sys.executable, "-I", "main.py")
        strings = b"".join(os.fsencode(word) + b"\0" for word in (str(tmp_path), *argv))
        head = struct.pack("<QQQIIIII", 0, 64 * 2**20, 0, 0, 0, 0, len(argv), 0)
        init.send(b"R", head + strings)
        if cause == b"k":
            # Shared memory counts in part: it was measured a second time, and allowed.
            os.read(reads, 4096)
            os.read(reads, 4096)
            init.send(b"K")
        kind, payload = init.read()
    assert (kind, payload[:1]) == (b"X", cause)
    ours.close()
    init.ends()


@contextlib.contextmanager
def reads_of(path: Path) -> Iterator[int]:
    """Yield a descriptor that tells when a file that the caller has not read has been closed."""
    path.touch()
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    assert libc.inotify_add_watch(watch, bytes(path), IN_CLOSE_NOWRITE) >= 0
    try:
        yield watch
    finally:
        os.close(watch)

"""The init sees what its job uses whatever that does, or there is no job."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer.errors import BackendUnavailable
from streamer.spi import Backend, Isolation, LaunchPlan, SandboxJob
from streamer.testing.running import plugin
from tests.conftest import OpenService
from tests.jobs import program, run_job


@dataclass(frozen=True)
class Blind(Backend):
    """A sandbox with processes of its own and the /proc of others, as in some containers."""

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
    with pytest.raises(BackendUnavailable, match="cannot see the sandbox's processes"):
        await open_service("blind", plugins=(plugin(Blind),))


CLOSED = """
    import ctypes, os, stat
    libc = ctypes.CDLL(None)
    os.mkdir("closed")
    open("closed/file", "w").close()
    os.chmod("closed", 0o300)
    watch = libc.inotify_init1(0)
    assert libc.inotify_add_watch(watch, b".", 0x4) >= 0  # IN_ATTRIB of what is in it
    changes = 0
    while changes < 4:  # opened and closed again, twice
        changes += len(os.read(watch, 4096)) // 32  # the event and the name "closed"
    os.mkdir("end")
    while stat.S_IMODE(os.stat("closed").st_mode) != 0o300:
        os.read(watch, 4096)
    print("as it was")
"""


async def test_a_folder_that_is_closed_stays_so_and_harms_nobody(
    open_service: OpenService, need: Any
) -> None:
    service = await open_service(need("plain"))
    ran = await run_job(service, **program(CLOSED), limits={"wall_time_s": 30})
    assert ran.out == "as it was\n"


@pytest.fixture
def reachable_init() -> Iterator[Path]:
    """Return a copy of the init that another user can execute."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy = Path(name, "init")
        shutil.copy(str(files("streamer") / "init" / "streamer-init"), copy)
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

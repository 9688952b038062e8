"""What the init and the trials ask of a template, and what the record of a job says of it."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from sandboxes.bwrap import Bwrap
from streamer.model.capabilities import NOT_OFFERED
from streamer.model.job import JobSpec
from streamer.spi import Backend, LaunchPlan, SandboxJob, TemplatePlan
from streamer.testing.running import plugin
from tests.conftest import OpenService
from tests.running import ended, run_job
from tests.sandbox.init_peer import INIT

# ---- what the init asks of a template ----------------------------------------------------


BWRAP = (
    "/usr/bin/bwrap",
    "--unshare-user",
    "--ro-bind",
    "/",
    "/",
    "--proc",
    "/proc",
    "--die-with-parent",
)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--as-pid-1", "--unshare-pid", "--cap-add", "CAP_NET_ADMIN"), "has capabilities"),
        (("--cap-drop", "ALL"), "not the first process"),
        (("--as-pid-1", "--unshare-pid", "--cap-drop", "ALL", "--bind", "/", "/"), "is writable"),
    ],
)
def test_the_init_refuses_a_template_that_is_not_closed(
    need: Callable[[str], str], options: tuple[str, ...], said: str
) -> None:
    need("bwrap")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the package may be in a private home
        init = shutil.copy(INIT, folder)
        as_user = (
            [] if os.getuid() else ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        )
        done = subprocess.run(
            [*as_user, *BWRAP, *options, "--", init, "template"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 125, done.stderr
    assert said in done.stderr


# ---- trials, and what the record says ---------------------------------------------------------


@dataclass(frozen=True)
class Open(Bwrap):
    """Its template has what the init refuses."""

    name: ClassVar[str] = "open"

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        plan = super().template_plan(job)
        assert plan is not None
        argv = list(plan.launch.argv)
        argv.insert(argv.index("--hostname"), "--cap-add")
        argv.insert(argv.index("--hostname"), "CAP_NET_ADMIN")
        return replace(plan, launch=replace(plan.launch, argv=tuple(argv)))


@dataclass(frozen=True)
class Bad(Bwrap):
    """Its template shows the host's files."""

    name: ClassVar[str] = "bad"

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        plan = super().template_plan(job)
        assert plan is not None
        folder = str(job.host.rootfs.parent)
        argv = list(plan.launch.argv)
        at = argv.index("--remount-ro")
        argv[at:at] = ["--ro-bind", folder, folder]
        launch = replace(plan.launch, argv=tuple(argv))
        return replace(plan, launch=launch, mounts=plan.mounts[-1:])  # /tmp would cover it


REFUSE = """
import ctypes, os, struct, sys
number, error = map(int, sys.argv[1:3])
steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x0005_0000 | error), (0x06, 0, 0, 0x7FFF_0000))
program = b"".join(struct.pack("<HBBI", *step) for step in steps)
kept = ctypes.create_string_buffer(program)
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept)))
PR_SET_SECCOMP = 22
assert ctypes.CDLL(None).prctl(PR_SET_SECCOMP, 2, fprog, 0, 0) == 0
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Execute a program for which a system call fails, and for its children."""


@dataclass(frozen=True)
class Denied(Bwrap):
    """The host refuses its template a system call."""

    call: ClassVar[str]
    error: ClassVar[int]

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        plan = super().template_plan(job)
        assert plan is not None
        number = NUMBERS[platform.machine()][self.call]
        argv = list(plan.launch.argv)
        at = argv.index("/init", argv.index("--"))
        argv[at:at] = ["/usr/bin/python3", "-I", "-S", "-c", REFUSE, str(number), str(self.error)]
        return replace(plan, launch=replace(plan.launch, argv=tuple(argv)))


NUMBERS = {
    "x86_64": {"mount": 165, "unshare": 272},
    "aarch64": {"mount": 40, "unshare": 97},
}


@dataclass(frozen=True)
class NoMounts(Denied):
    """As where a profile of AppArmor denies them."""

    name: ClassVar[str] = "no_mounts"
    call: ClassVar[str] = "mount"
    error: ClassVar[int] = errno.EACCES


@dataclass(frozen=True)
class NoNamespaces(Denied):
    """As where they are used up, or the kernel is too old for one of them."""

    name: ClassVar[str] = "no_namespaces"
    call: ClassVar[str] = "unshare"
    error: ClassVar[int] = errno.ENOSPC


class Stricter(Bwrap):
    """Changes the sandbox of a job, and knows nothing of templates."""

    name: ClassVar[str] = "stricter"

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        plan = super().plan(job, workspace)
        argv = list(plan.argv)
        argv[argv.index("--hostname") + 1] = "stricter"
        return replace(plan, argv=tuple(argv))


async def test_a_backend_that_changes_only_its_own_sandboxes_has_no_template(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    need("bwrap")
    service = await open_service("stricter", plugins=(plugin(Stricter),))
    assert service.worker.pool is not None
    assert service.worker.pool.templates.why_not("stricter") == NOT_OFFERED
    assert (await run_job(service, command=("uname", "-n"))).out == "stricter\n"


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (Open, "the template has capabilities"),
        (Bad, "sees files of the host"),
        (NoMounts, "Permission denied"),
        (NoNamespaces, "No space left on device"),
    ],
)
async def test_a_template_that_does_not_work_is_not_used(
    open_service: OpenService,
    need: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
    backend: type[Backend],
    why: str,
) -> None:
    need("bwrap")
    if issubclass(backend, Denied) and platform.machine() not in NUMBERS:
        pytest.skip("the numbers of its system calls are not known here")
    service = await open_service(backend.name, plugins=(plugin(backend),))
    assert service.worker.pool is not None
    assert why in service.worker.pool.templates.why_not(backend.name)
    assert why in caplog.text
    assert (await run_job(service, command=("echo", "1"))).out == "1\n"
    assert backend is not Open or not service.worker.pool.templates.pids


async def test_the_digest_of_the_policy_says_how_a_job_was_started(
    open_service: OpenService, need: Callable[[str], str]
) -> None:
    service = await open_service(need("bwrap"))
    pool = service.worker.pool
    assert pool is not None
    digests = []
    for why_not in ("", "", "it is broken"):
        pool.templates.tried("bwrap", why_not)
        job = await service.jobs.submit(JobSpec(command=("true",)))
        assert (await ended(job)).verdict == "exited 0"
        digests.append((await job.view()).job.policy)
    assert digests[0] == digests[1] != digests[2]

"""What a job sees of the host: what its runtime names, what programs look for, and no more."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.errors import BackendUnavailable
from streamer.model.events import Output
from streamer.model.job import JobSpec, SourceFile
from streamer.model.runtime import Runtime
from tests.conftest import OpenService
from tests.running import run_job
from tests.support import processes_with

ROOT = os.geteuid() == 0


@pytest.fixture(params=[path for path in ("/tmp", "/opt", "/srv") if os.access(path, os.W_OK)])
def tool(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder that jobs may read, far from the system's own, with a program in it."""
    folder = Path(tempfile.mkdtemp(prefix="streamer-tool-", dir=request.param))
    folder.chmod(0o755)
    (folder / "bin").mkdir()
    (folder / "bin/greet").write_text("#!/bin/sh\necho hello from $0\n")
    (folder / "bin/greet").chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def runtime(tool: Path, *read_only: Path) -> Runtime:
    return Runtime(
        name="greeting",
        entry="main.sh",
        run=("sh", "{entry}"),
        env={"TOOL": str(tool / "bin/greet")},
        read_only=tuple(map(str, read_only)),
    )


async def test_a_runtime_reads_what_it_names(
    backend: str, open_service: OpenService, tool: Path
) -> None:
    service = await open_service(backend, runtimes=(runtime(tool, tool),))
    ran = await run_job(service, language="greeting", code='"$TOOL"')
    assert ran.out == f"hello from {tool}/bin/greet\n"


async def test_what_a_runtime_names_cannot_be_written(
    isolating_backend: str, open_service: OpenService, tool: Path
) -> None:
    """Even if it belongs to the service's user, as whom the job runs."""
    service = await open_service(isolating_backend, runtimes=(runtime(tool, tool),))
    code = 'echo x >>"$TOOL"; rm "$TOOL"; chmod 777 "$TOOL"; touch "${TOOL%/*}/more"; "$TOOL"'
    ran = await run_job(service, language="greeting", code=code)
    assert ran.text() == f"hello from {tool}/bin/greet\n"
    assert [path.name for path in (tool / "bin").iterdir()] == ["greet"]


async def test_other_languages_do_not_see_it(
    isolating_backend: str, open_service: OpenService, tool: Path
) -> None:
    service = await open_service(isolating_backend, runtimes=(runtime(tool, tool),))
    ran = await run_job(service, command=("ls", str(tool)))
    assert ran.complete.exit_code != 0
    assert ran.text() == ""


async def test_a_folder_below_a_link_of_the_system_is_read(
    open_service: OpenService, need: Callable[[str], str], tool: Path
) -> None:
    """A mount over a link fails, or ends up on the host; so the link is resolved first."""
    need("bwrap")
    (tool / "link").symlink_to(tool / "bin")
    service = await open_service("bwrap", runtimes=(runtime(tool, tool / "link", tool),))
    ran = await run_job(service, language="greeting", code=f"{tool}/link/greet")
    assert ran.out == f"hello from {tool}/link/greet\n"


async def test_a_path_that_goes_away_fails_no_sandbox(
    isolating_backend: str, open_service: OpenService, tool: Path
) -> None:
    service = await open_service(isolating_backend, runtimes=(runtime(tool, tool),))
    shutil.rmtree(tool / "bin")
    tool.rename(f"{tool}-gone")
    try:
        ran = await run_job(service, language="greeting", code='echo on; "$TOOL"')
        assert ran.complete.exit_code in (126, 127)
        assert ran.text() == "on\n"
    finally:
        Path(f"{tool}-gone").rename(tool)


async def test_a_path_that_is_missing_is_told_at_the_start(
    open_service: OpenService, need: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    need("bwrap")
    sci = Runtime(name="sci", run=("true",), read_only=("/opt/streamer-not-there",))
    await open_service("bwrap", runtimes=(sci,))
    assert "runtimes.sci.read_only: /opt/streamer-not-there does not exist" in caplog.text


@pytest.fixture
def etc_part() -> Iterator[str]:
    """Return the name of something in /etc that jobs are not shown unless a runtime names it."""
    if not ROOT:
        yield next(
            name for name in ("profile", "bash.bashrc", "login.defs") if Path("/etc", name).exists()
        )
        return
    folder = Path(tempfile.mkdtemp(prefix="streamer-part-", dir="/etc"))
    folder.chmod(0o755)
    (folder / "settings").write_text("answer = 42\n")
    yield folder.name
    shutil.rmtree(folder)


async def test_a_runtime_names_its_part_of_etc(
    isolating_backend: str, open_service: OpenService, etc_part: str
) -> None:
    code = f"find /etc/{etc_part} -type f -exec cat {{}} +"
    without = Runtime(name="without", entry="main.sh", run=("sh", "{entry}"))
    with_it = replace(without, name="with", etc=(f"{etc_part[:-1]}?",))
    service = await open_service(isolating_backend, runtimes=(with_it, without))
    found = Path("/etc", etc_part)
    text = "".join(path.read_text() for path in ([found] if found.is_file() else found.iterdir()))
    assert (await run_job(service, language="with", code=code)).out == text
    assert (await run_job(service, language="without", code=code)).text() == ""


async def test_a_part_of_etc_that_comes_or_goes_fails_no_sandbox(
    isolating_backend: str, open_service: OpenService, etc_part: str
) -> None:
    """As packages are installed and removed while the service runs."""
    if not ROOT:
        pytest.skip("only root changes /etc")
    code = f"cat /etc/{etc_part}/settings"
    service = await open_service(
        isolating_backend,
        runtimes=(Runtime(name="x", entry="m", run=("sh", "{entry}"), etc=(etc_part,)),),
    )
    found = Path("/etc", etc_part)
    found.rename(f"{found}-away")
    assert (await run_job(service, language="x", code=code)).complete.exit_code == 1
    Path(f"{found}-away").rename(found)
    assert (await run_job(service, language="x", code=code)).out == "answer = 42\n"
    found.rename(f"{found}-away")
    assert (await run_job(service, language="x", code=code)).complete.exit_code == 1
    Path(f"{found}-away").rename(found)


async def test_no_job_sees_accounts_or_secrets(
    isolating_backend: str, open_service: OpenService
) -> None:
    service = await open_service(isolating_backend)
    ran = await run_job(
        service,
        command=("sh", "-c", "cat /etc/passwd /etc/group; ls /etc/ssh /etc/ssl/private; ls /etc"),
    )
    accounts = {line.partition(":")[0] for line in ran.text().splitlines() if ":" in line}
    assert accounts <= {"root", "nobody", "nogroup"}
    assert {"shadow", "gshadow", "machine-id", "ssh", "sudoers"}.isdisjoint(ran.text().split())
    assert "services" in ran.text().split()


async def test_the_folder_of_a_job_holds_what_was_sent(
    backend: str, open_service: OpenService
) -> None:
    """And nothing of a wrapper's own (firejail: .bashrc, .inputrc)."""
    service = await open_service(backend)
    assert (await run_job(service, command=("ls", "-A"))).out == ""
    sent = (SourceFile(".bashrc", b"x"), SourceFile("a", b""))
    assert (await run_job(service, command=("ls", "-A"), files=sent)).out == ".bashrc\na\n"


async def test_names_of_the_host_do_not_give_a_job_away(
    backend: str, open_service: OpenService
) -> None:
    """A job's id gives access to it, and every account sees commands, groups and folders."""
    service = await open_service(backend)
    mark = secrets.token_hex(8)
    job = await service.jobs.submit(
        JobSpec(command=("sh", "-c", "echo up; cat", mark), interactive=True)
    )
    async for event in job.events():
        if isinstance(event.data, Output):
            break
    try:
        assert processes_with(mark), "the job must be there to be found"
        assert processes_with(job.id) == []
        for table in ("cgroup", "mountinfo"):
            for path in Path("/proc").glob(f"[0-9]*/{table}"):
                with contextlib.suppress(OSError):
                    assert job.id not in path.read_text(), path
        assert service.worker.pool is not None
        folders = [Path("/sys/fs/cgroup"), service.worker.pool.folder.path]
        for folder in folders:
            for below, names, files in os.walk(folder):
                assert job.id not in (*names, *files), below
    finally:
        await job.end_input()
        await job.result()


@pytest.mark.parametrize(
    "parent", [path for path in ("/tmp", "/opt", "/srv", "/var/lib") if os.access(path, os.W_OK)]
)
async def test_it_is_so_wherever_the_service_has_its_folder(
    isolating_backend: str, open_service: OpenService, parent: str
) -> None:
    """/tmp is the job's own too where the service's folder is elsewhere."""
    with tempfile.TemporaryDirectory(dir=parent) as state, tempfile.NamedTemporaryFile() as lure:
        Path(state).chmod(0o711)
        Path(lure.name).chmod(0o644)
        service = await open_service(isolating_backend, server={"state_dir": state})
        code = f"test -e {lure.name} && echo seen; ls -A; ls /tmp /run /var/tmp 2>&1"
        ran = await run_job(service, command=("sh", "-c", code))
        names = {Path(line).name for line in ran.text().split()}
        assert "seen" not in names
        assert Path(lure.name).name not in names
        await service.drain(0)


@pytest.mark.one_at_a_time("run-user")  # it is one folder, whatever the backend
async def test_the_accounts_own_folder_in_run_is_hidden(
    isolating_backend: str, open_service: OpenService
) -> None:
    """Firejail shows it even where nothing of /run is listed: sockets and keys of a session."""
    if not ROOT:
        pytest.skip("only root makes folders in /run/user")
    account = pwd.getpwnam("streamer")
    folder = Path("/run/user", str(account.pw_uid))
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, account.pw_uid, account.pw_gid)
    secret = folder / "secret"
    secret.write_text("of a session\n")
    secret.chmod(0o644)
    try:
        service = await open_service(isolating_backend)
        code = f"cat {secret}; ls /run/user; echo mine >{folder}/planted"
        ran = await run_job(service, command=("sh", "-c", code))
        assert ran.text() == ""
        assert ran.complete.exit_code != 0
        assert not (folder / "planted").exists()
    finally:
        secret.unlink()
        if made:
            shutil.rmtree(folder)  # firejail makes folders in it


@pytest.mark.parametrize("parent", ["/var/tmp", "~streamer" if ROOT else "~"])
async def test_firejail_says_where_its_folder_cannot_be(
    open_service: OpenService, need: Callable[[str], str], parent: str
) -> None:
    need("firejail")
    with tempfile.TemporaryDirectory(dir=Path(parent).expanduser()) as state:
        Path(state).chmod(0o711)
        with pytest.raises(BackendUnavailable, match=r"set server\.state_dir"):
            await open_service("firejail", server={"state_dir": state})


@pytest.mark.skipif(not ROOT, reason="only root can put another /etc in the place of the host's")
def test_a_host_without_names_of_hosts_is_no_reason_to_fail(
    need: Callable[[str], str], tmp_path: Path
) -> None:
    """As on minimal systems: firejail fails if it is told to replace a missing file."""
    need("firejail")
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    (tmp_path / "etc/hosts").unlink()
    (tmp_path / "main.sh").write_text("echo ran\n")
    script = (
        'mount --bind "$1/etc" /etc && exec "$2" -m streamer run --sandbox firejail "$1/main.sh"'
    )
    ran = subprocess.run(
        ("unshare", "--mount", "sh", "-c", script, "sh", tmp_path, sys.executable),
        capture_output=True,
        check=False,
        text=True,
        cwd="/",
    )
    assert (ran.returncode, ran.stdout) == (0, "ran\n"), ran.stderr

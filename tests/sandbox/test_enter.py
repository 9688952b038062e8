"""A command is started in its group of version 2, and what started it ends as it does."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pytest

import streamer
from streamer.sandbox.cgroups.files import kill, pids
from streamer.sandbox.cgroups.tree import cgroup_tree
from streamer.sandbox.cgroups.v2 import CgroupV2
from tests.running import adopt_orphans

INIT: Final = str(Path(streamer.__file__).parent / "sandbox" / "init" / "streamer-init")
ROOT: Final = os.geteuid() == 0
HYBRID: Final = Path("/sys/fs/cgroup/unified")
CLONE3: Final = 435
WRITE: Final = {"x86_64": 1, "aarch64": 64}.get(platform.machine())


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group of version 2; that of a host with version 1 has no controllers."""
    adopt_orphans()
    with cgroup_tree("auto", 12) as tree:
        if tree is not None and tree.level == "cgroup-v2":
            parent = tree.roots[0]
        elif ROOT and (HYBRID / "cgroup.procs").exists():
            parent = HYBRID
        else:
            pytest.skip("no group of version 2 is ours to divide")
        made = parent / f"streamer-test-{os.getpid()}"
        made.mkdir()
        try:
            yield made
        finally:
            kill(made)
            emptied(made)
            made.rmdir()


def emptied(group: Path) -> None:
    """Wait until nothing is alive in a group."""
    end = time.monotonic() + 30
    while pids(group):
        assert time.monotonic() < end
        time.sleep(0.005)


def command(group: Path, script: str, *options: str) -> tuple[str, ...]:
    return (INIT, "enter", f"--start-in={group}", *options, "--", "/bin/sh", "-c", script)


@contextmanager
def started(
    group: Path, script: str, *options: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a script that says a line first; yield it and its output after that line."""
    with subprocess.Popen(
        command(group, script, *options),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield process, process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 137", 137),
        ("kill -9 $$", -9),
        ("kill $$", -15),
        ("kill -SEGV $$", -11),
    ],
)
def test_its_end_is_that_of_the_command(group: Path, script: str, code: int) -> None:
    assert subprocess.run(command(group, script), check=False).returncode == code


@pytest.mark.parametrize("options", [(), ("--pid-namespace",)], ids=["", "namespace"])
def test_the_command_is_in_the_group_and_what_waits_for_it_is_not(
    group: Path, options: tuple[str, ...]
) -> None:
    with started(group, "sleep 600 & echo up; wait", *options) as (process, _):
        inside = pids(group)
        assert len(inside) == 2
        assert process.pid not in inside
        kill(group)
        assert process.wait(30) == -9


@pytest.mark.skipif(not ROOT, reason="only root can become another user")
def test_the_command_is_its_own_user(group: Path) -> None:
    options = ("--uid=60901", "--gid=60902")
    with started(group, "echo up; id -u; id -g; id -G", *options) as (process, output):
        assert output.read().split() == ["60901", "60902", "60902"]
        assert process.wait(30) == 0


def test_a_signal_to_the_process_group_is_for_the_command(group: Path) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    with started(group, script) as (process, output):
        os.killpg(process.pid, signal.SIGTERM)
        assert output.read() == "caught\n"
        assert process.wait(30) == 3


def test_the_command_ends_with_what_waits_for_it(group: Path) -> None:
    with started(group, "echo up; exec sleep 600") as (process, _):
        process.kill()
        assert process.wait(30) == -9
        emptied(group)


def test_both_end_with_the_service(group: Path) -> None:
    words = " ".join(f"'{word}'" for word in command(group, "exec sleep 600"))
    script = f"{words} & echo up; wait"
    service = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    assert service.stdout.readline() == "up\n"
    end = time.monotonic() + 30
    while not pids(group):
        assert time.monotonic() < end
        time.sleep(0.005)
    service.kill()
    emptied(group)
    assert service.stdout.read() == ""  # nobody holds it any more
    service.wait()
    service.stdout.close()


def test_what_the_command_closes_is_closed(group: Path) -> None:
    with started(group, "echo up; exec >&-; sleep 600") as (_, output):
        assert output.read() == ""


def refuse(number: int, error: int) -> None:
    """Let a system call of this process and its children fail (seccomp(2))."""
    filter_, libc = (
        (
            struct.pack("<HBBI", 0x20, 0, 0, 0)  # load the number of the system call
            + struct.pack("<HBBI", 0x15, 0, 1, number)
            + struct.pack("<HBBI", 0x06, 0, 0, 0x00050000 | error)  # SECCOMP_RET_ERRNO
            + struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
        ),
        ctypes.CDLL(None),
    )
    code = ctypes.create_string_buffer(filter_)
    program = struct.pack("@HP", len(filter_) // 8, ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP


def refused(number: int, error: int, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        preexec_fn=lambda: refuse(number, error),  # noqa: PLW1509 - there is one thread
    )


@pytest.mark.skipif(WRITE is None, reason="the number of write(2) is not known for this machine")
def test_to_enter_nothing_is_written(group: Path) -> None:
    """A write waits for an RCU grace period."""
    assert WRITE is not None
    process = refused(WRITE, errno.EPERM, *command(group, "exec sleep 600"))
    end = time.monotonic() + 30
    while len(pids(group)) != 1:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    kill(group)
    assert process.wait(30) == -9


def test_without_clone3_the_group_is_entered_all_the_same(group: Path) -> None:
    script = f"read -r pid < {group}/cgroup.procs; [ $pid = $$ ] && exit 3"
    process = refused(CLONE3, errno.ENOSYS, *command(group, script))
    assert process.wait(30) == 3


def test_a_group_that_was_killed_is_entered_all_the_same(group: Path) -> None:
    """The kernel kills what is started in it from outside, long after that."""
    with contextlib.closing(CgroupV2((group,))) as cgroup:
        for _ in range(2):
            words = (INIT, "enter", *cgroup.entry, "--", "/bin/sh", "-c", "exit 3")
            assert subprocess.run(words, check=False).returncode == 3
            cgroup.kill()


def test_a_group_that_is_not_there_is_refused(group: Path) -> None:
    done = subprocess.run(
        command(group / "none", "true"), check=False, capture_output=True, text=True
    )
    assert (done.returncode, "No such file" in done.stderr) == (125, True)


def test_a_folder_is_read_only_for_the_command_even_for_its_owner(place: Path) -> None:
    """With the flags of the mount that it is in: the kernel lets nobody drop one."""
    folder, other = place / "folder", place / "other"
    for each in (folder, other):
        each.mkdir()
    options = ["--pid-namespace", f"--read-only={folder}", f"--read-only={place}/missing"]
    if ROOT:
        flags = ("mount", "-t", "tmpfs", "-o", "nosuid,nodev", "none", folder)
        subprocess.run(flags, check=True)
        options += ["--uid=60901", "--gid=60901"]
        for each in (folder, other):
            os.chown(each, 60901, 60901)
    (folder / "file").touch()
    (folder / "file").chmod(0o666)
    script = (
        f"cd {folder}; echo x >file; echo x >new; chmod 777 .; rm file; "
        f"mount -o remount,bind,rw {folder}; umount {folder}; echo x >{folder}/again; "
        f"echo x >{other}/new"
    )
    try:
        command = (INIT, "enter", *options, "--", "/bin/sh", "-c", script)
        subprocess.run(command, capture_output=True, check=False)
        assert [path.name for path in folder.iterdir()] == ["file"]
        assert (folder / "file").read_text() == ""
        assert (other / "new").exists()
    finally:
        if ROOT:
            subprocess.run(("umount", folder), check=True)

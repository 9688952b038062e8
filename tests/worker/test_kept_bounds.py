"""What is kept between the jobs of a session (`keepProcesses`) is bounded, and all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamer.compose import Parts
from streamer.errors import Conflict, Gone
from streamer.model.job import Limits, TerminalSize
from streamer.model.ranges import ByteRange
from streamer.model.session import SessionSpec
from streamer.sandbox.cgroups.files import pids
from streamer.testing.processes import descendants
from streamer.worker import sessionfiles
from tests.conftest import OpenService
from tests.worker.keeping import keeping, kills_one_process, opened, python

SIZE = TerminalSize(80, 24)


@pytest.fixture
async def service(open_service: OpenService, backend: str) -> Parts:
    return await keeping(open_service, backend)


async def of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


LEFT = """
import os, signal, time
open("there", "w").close()
while not os.path.exists("go"): time.sleep(0.001)
try:
{}
except OSError:
    pass
while True: time.sleep(60)
"""


async def leave(service: Parts, session_id: str, then: str) -> None:
    """Let a job leave a process that does something when no job runs any more."""
    left = LEFT.format(textwrap.indent(textwrap.dedent(then), "    "))
    assert (await python(service, session_id, f"left({left!r})")).verdict == "exited 0"
    await service.jobs.sessions.write(session_id, "go", of(b""))


async def end_of(service: Parts, session_id: str) -> str:
    """Wait for the end of a session, and return what the service says of it."""
    async with asyncio.timeout(60):
        while True:
            try:
                await service.jobs.sessions.find(session_id)
            except Gone as gone:
                return gone.message
            await asyncio.sleep(0.01)


async def all_closed(service: Parts) -> None:
    async with asyncio.timeout(60):
        while len(service.worker.sessions):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("then", "what", "disk"),
    [
        ("for n in range(64): open(f'f{n}', 'wb').write(bytes(2**20))", "wrote more", "4MiB"),
        ("for n in range(12_000): os.link('there', f'f{n}')", "more files", "4MiB"),
        ("x = [bytes([n]) * 2**20 for n in range(160)]", "more memory", "64MiB"),
    ],
    ids=["bytes", "files", "memory"],
)
async def test_who_leaves_what_uses_more_than_a_job_has_no_session(
    service: Parts, then: str, what: str, disk: str
) -> None:
    session = await opened(service, disk_bytes=disk, memory_bytes="128MiB")
    await leave(service, session, then)
    assert what in await end_of(service, session)
    await all_closed(service)


async def test_what_jobs_have_used_is_not_that_of_what_they_leave(service: Parts) -> None:
    session = await opened(service, memory_bytes="128MiB", cpu_time_s=1)
    if kills_one_process(service):  # otherwise the session ends with it
        ran = await python(service, session, "x = b'x' * (200 << 20)")
        assert ran.complete.reason == "memory"
    for _ in range(2):
        ran = await python(service, session, "while time.process_time() < 0.6: pass")
        assert ran.verdict == "exited 0"
    await service.jobs.sessions.files(session)


async def test_a_full_workspace_in_which_nothing_runs_ends_no_session(service: Parts) -> None:
    session = await opened(service, disk_bytes="4MiB")
    fill = "[open(f'f{n}', 'wb').write(bytes(2**20)) for n in range(8)]"
    await python(service, session, fill)
    of_worker = service.worker.sessions.get(session)
    assert of_worker is not None
    async with of_worker.lent() as sandbox:
        await sandbox.check_rest(Limits(disk_bytes=2**22))
    await service.jobs.sessions.remove(session, "f0")


async def test_a_session_whose_init_has_died_ends_without_a_request(service: Parts) -> None:
    before = descendants()
    session = await opened(service)
    await leave(service, session, "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    of_worker = service.worker.sessions.get(session)
    assert of_worker is not None
    async with of_worker.lent() as sandbox:
        init: Any = sandbox._driver
    os.kill(init._init_pid, signal.SIGKILL)
    assert "broken" in await end_of(service, session)
    await all_closed(service)
    assert {*descendants()} - {*before} <= templates(service)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_is_kept_takes_nothing_but_its_session(
    service: Parts, number: int
) -> None:
    """In firejail it can kill our init, and stop it."""
    before = descendants()
    session = await opened(service)
    attack = f"""
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try: os.kill(int(name), {number})
                except OSError: pass
    """
    # The process may stop the init before that has said that the file is there.
    with contextlib.suppress(Gone):
        await leave(service, session, attack)
        await service.jobs.sessions.end(session)
    await all_closed(service)
    assert {*descendants()} - {*before} <= templates(service)


def templates(service: Parts) -> frozenset[int]:
    assert service.worker.pool is not None
    return frozenset(service.worker.pool.templates.pids)


@pytest.mark.parametrize("how", ["deleted", "idle", "total", "stopped"])
async def test_however_a_session_ends_nothing_that_resists_is_left(
    open_service: OpenService, backend: str, how: str
) -> None:
    total_s = 10.0 if how == "total" else 600.0
    service = await keeping(open_service, backend, sessions={"total_s": total_s})
    pool = service.worker.pool
    assert pool is not None
    before = descendants()
    session = await opened(service, idle_s=1.0 if how == "idle" else None, processes=30)
    code = """
        import signal
        resist = '''if True:
            import os, signal, time
            os.setsid()
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            open("there", "w").close()
        '''
        left(resist + "    while True: time.sleep(60)")
        left(resist + "    os.kill(os.getpid(), signal.SIGSTOP)")
        os.remove("there")
        left(resist + '''
            while True:
                try: os.fork()
                except OSError: time.sleep(0.05)
        ''')
    """
    assert (await python(service, session, code)).verdict == "exited 0"
    if how == "deleted":
        await service.jobs.sessions.end(session)
    elif how == "stopped":
        await service.worker.sessions.close(60)
    else:
        assert ("idle" if how == "idle" else "time is up") in await end_of(service, session)
    await all_closed(service)
    assert {*descendants()} - {*before} <= templates(service)
    roots = () if pool.cgroups is None else pool.cgroups.roots
    assert not [pid for root in roots for group in root.glob("*/") for pid in pids(group)]
    assert not os.listdir(pool.folder.workspaces.path)


async def test_a_job_beside_too_many_processes_ends_as_one_that_cannot_be_started(
    service: Parts,
) -> None:
    session = await opened(service, processes=40)
    many = (
        'for _ in range(20): left(\'open("there", "w").close()\\nimport time\\ntime.sleep(600)\')'
    )
    assert (await python(service, session, many)).verdict == "exited 0"
    for terminal in (None, SIZE):
        ran = await python(service, session, "print(1)", limits={"processes": 4}, terminal=terminal)
        assert ran.verdict == "exited 126"
        told = ran.text("stdout" if terminal else "stderr")
        assert "earlier jobs have left running" in told
    assert (await python(service, session, "print(1)")).out == "1\n"


async def test_a_process_that_is_kept_has_the_cpu_time_of_one_job_after_another(
    service: Parts,
) -> None:
    """The kernel's limit for a single process would end it after that of its first job."""
    session = await opened(service)
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))"
    ran = await python(service, session, code, limits={"cpu_time_s": 1})
    assert ran.out == f"{resource.getrlimit(resource.RLIMIT_CPU)}\n"


async def test_what_the_service_writes_is_no_cpu_time_of_what_is_kept(service: Parts) -> None:
    session = await opened(service, cpu_time_s=0.1, disk_bytes="64MiB")
    of_worker = service.worker.sessions.get(session)
    assert of_worker is not None
    async with of_worker.lent() as sandbox:
        used_us = sandbox.cpu_time_us
    before = used_us()
    while used_us() < before + 150_000:
        await service.jobs.sessions.write(session, "large", of(bytes(2**24)))
    await service.jobs.sessions.find(session)


async def test_what_a_kept_process_uses_is_in_the_way_and_ends_nothing(service: Parts) -> None:
    session = await opened(service)
    code = """
        import shutil
        shutil.copy("/bin/sleep", "tool")
        subprocess.Popen(["./tool", "600"], stdin=-3, stdout=-3, stderr=-3)
        left('''if True:
            import os, time
            os.mkfifo("pipe")
            reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
            open("there", "w").close()
            time.sleep(600)
        ''')
    """
    assert (await python(service, session, code)).verdict == "exited 0"
    for name in ("tool", "pipe"):
        with pytest.raises(Conflict, match="in the way"):
            await service.jobs.sessions.write(session, name, of(b"x"))
    assert (await python(service, session, "print(1)")).out == "1\n"


async def test_a_terminal_is_that_of_one_job(service: Parts) -> None:
    session = await opened(service)
    code = """
        left('''if True:
            import os, signal, time
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.write(1, b"of the first")
            open("there", "w").close()
            while True:
                os.write(1, b"x")
                time.sleep(0.001)
        ''', stdin=None, stdout=None, stderr=None)
        os.remove("there")
        left('''if True:
            import time
            while True: open("there", "a").write("x"); time.sleep(0.001)
        ''', start_new_session=True)
    """
    first = await python(service, session, code, terminal=SIZE)
    assert first.verdict == "exited 0"
    assert "of the first" in first.text()
    code = """
        size = os.path.getsize("there")
        while os.path.getsize("there") == size: time.sleep(0.001)
        time.sleep(0.1)
        print("second")
    """
    assert (await python(service, session, code, terminal=SIZE)).text() == "second\r\n"


async def plain_session(service: Parts) -> str:
    return (await service.jobs.sessions.open(SessionSpec())).session.session_id


async def test_a_part_of_a_file_that_is_cut_meanwhile_is_refused(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer with a part of nothing would have no `Content-Range`."""
    service = await open_service("plain")
    session = await plain_session(service)
    await service.jobs.sessions.write(session, "file", of(b"0123456789"))

    def cut(fd: int, size: int, at: int) -> bytes:
        os.close(fd)
        return b""

    monkeypatch.setattr(sessionfiles, "_read", cut)
    with pytest.raises(Conflict, match="was cut"):
        async with service.jobs.sessions.read(session, "file", ByteRange(5)):
            pass

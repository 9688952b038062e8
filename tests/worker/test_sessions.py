"""Sessions in every backend: one sandbox for several jobs, its files, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from streamer.compose import Parts
from streamer.engine.memory import sessions as in_memory
from streamer.engine.memory.engine import MemoryEngine
from streamer.errors import Conflict, Gone, NotFound, StreamerError, TooLarge
from streamer.model.job import JobSpec, SourceFile
from streamer.model.session import SessionSpec
from streamer.sandbox.cgroups.files import pids
from streamer.testing.processes import kept_besides
from streamer.testing.running import Ran, ended, run_job
from tests.conftest import OpenService
from tests.support import until_stored


async def opened(service: Parts, **spec: Any) -> str:
    return (await service.jobs.sessions.open(SessionSpec(**spec))).session.session_id


async def python(service: Parts, session_id: str, code: str, **spec: Any) -> Ran:
    return await run_job(service, language="python", code=code, session_id=session_id, **spec)


async def of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def content(service: Parts, session_id: str, name: str) -> bytes:
    async with service.jobs.sessions.read(session_id, name) as part:
        return os.pread(part.fd, part.bytes, 0)


async def all_closed(service: Parts) -> None:
    """Wait until nothing is left of the sessions of a service."""
    async with asyncio.timeout(30):
        while len(service.worker.sessions):
            await asyncio.sleep(0.01)


async def test_a_session_is_one_sandbox(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    session = await opened(service)
    sessions = service.jobs.sessions
    assert await sessions.write(session, "in/data", of(b"12", b"34")) == 4
    code = """if True:
        import os
        with open('kept', 'a') as kept: kept.write('x')
        with open('kept') as kept: print(len(kept.read()), os.getuid(), os.getcwd())
        with open('in/data') as data: print(data.read())
        with open('out', 'w') as out: out.write('left')
    """
    first, second = [(await python(service, session, code)).out for _ in range(2)]
    assert first.startswith("1 ")
    assert second == "2" + first[1:]
    assert await content(service, session, "out") == b"left"
    listed = await sessions.files(session)
    assert {"in", "in/data", "main.py", "out"} <= {file.name for file in listed.files}
    await sessions.remove(session, "out")
    with pytest.raises(NotFound):
        await content(service, session, "out")
    await sessions.end(session)
    with pytest.raises(Gone):
        await content(service, session, "in/data")
    await all_closed(service)


async def test_no_process_stays_for_the_next_job(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    session = await opened(service)
    code = """if True:
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for fd in range(3): os.close(fd)
                while True:
                    with open('beat', 'a') as beat: beat.write('x')
                    time.sleep(0.001)
            os._exit(0)
        while not os.path.exists('beat'): time.sleep(0.001)
        print(len(os.listdir('/proc/self/task')))
    """
    assert (await python(service, session, code)).out == "1\n"
    size = len(await content(service, session, "beat"))
    assert (await python(service, session, "import time; time.sleep(0.05); print(1)")).out == "1\n"
    assert len(await content(service, session, "beat")) == size


async def test_what_is_no_file_is_neither_read_nor_written(
    open_service: OpenService, backend: str, tmp_path: Path
) -> None:
    service = await open_service(backend)
    tmp_path.chmod(0o777)
    target = tmp_path / "target"
    target.write_text("of the host")
    target.chmod(0o666)
    session = await opened(service, limits={"file_bytes": "100MiB"})
    code = f"""if True:
        import os
        os.symlink({str(target)!r}, 'link')
        os.symlink({str(tmp_path)!r}, 'away')
        os.mkfifo('pipe')
        with open('sparse', 'w') as sparse:
            try: sparse.truncate(2**40)
            except OSError: sparse.truncate(2**26 + 1)
    """
    ran = await python(service, session, code, limits={"file_bytes": "100MiB"})
    assert ran.verdict == "exited 0", ran.text("stderr")
    sessions = service.jobs.sessions
    for name in ("link", "away/target", "pipe", "away"):
        with pytest.raises(Conflict):
            await content(service, session, name)
        with pytest.raises(Conflict):
            await sessions.write(session, name, of(b"x"))
    with pytest.raises(Conflict):
        await sessions.write(session, "away/new", of(b"x"))
    with pytest.raises(Conflict):
        await sessions.remove(session, "away/target")
    with pytest.raises(TooLarge):
        await content(service, session, "sparse")
    for name in ("link", "away", "pipe", "sparse"):
        await sessions.remove(session, name)
    assert target.read_text() == "of the host"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


async def test_files_have_room_after_a_job_with_little_memory(
    open_service: OpenService, need: Any
) -> None:
    service = await open_service(need("bwrap"))  # where the workspace is memory
    session = await opened(service)
    ran = await python(service, session, "print(1)", limits={"memory_bytes": "16MiB"})
    assert ran.out == "1\n"
    assert await service.jobs.sessions.write(session, "large", of(bytes(2**25))) == 2**25
    assert (await python(service, session, "print(2)")).out == "2\n"


async def test_a_workspace_has_its_size(open_service: OpenService, backend: str) -> None:
    service = await open_service(backend)
    session = await opened(service, limits={"disk_bytes": 2**20})
    sessions = service.jobs.sessions
    with pytest.raises(TooLarge):
        await sessions.write(session, "a/large", of(bytes(2**21)))
    await sessions.write(session, "small", of(bytes(2**10)))
    assert (await content(service, session, "small")) == bytes(2**10)
    # Where the disk is watched it may have more for a moment.
    code = "import time; open('more', 'wb').write(bytes(2**21)); time.sleep(30)"
    ran = await python(service, session, code)
    assert (ran.complete.reason == "disk") or "No space left" in ran.text("stderr")


async def test_a_job_that_is_stopped_while_its_files_are_written_spoils_nothing(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend)
    session = await opened(service)
    of_worker = service.worker.sessions.get(session)
    assert of_worker is not None
    async with of_worker.lent() as sandbox:
        init: Any = sandbox._driver
    os.kill(init._init_pid, signal.SIGSTOP)
    file = SourceFile("large", bytes(2**21))
    job = await service.jobs.submit(
        JobSpec(language="python", code="", files=(file,), session_id=session)
    )
    while not init.channel._cut:
        await asyncio.sleep(0.001)
    await job.cancel()
    [execution] = service.worker._running.values()
    while execution._stop.reason is None:
        await asyncio.sleep(0.001)
    os.kill(init._init_pid, signal.SIGCONT)
    result = (await ended(job)).complete
    assert result.reason == "cancelled"
    assert (await python(service, session, "print(1)")).out == "1\n"


async def test_a_broken_sandbox_ends_its_session_only(
    open_service: OpenService, backend: str
) -> None:
    service = await open_service(backend)
    session, other = await opened(service), await opened(service)
    of_worker = service.worker.sessions.get(session)
    assert of_worker is not None
    turn = of_worker.lent()
    sandbox = await turn.__aenter__()
    await sandbox._driver.close()  # as if it had died
    await turn.__aexit__(None, None, None)
    with pytest.raises(Gone, match="broken"):
        while True:
            await service.jobs.sessions.find(session)
            await asyncio.sleep(0.01)
    assert (await python(service, other, "print(1)")).out == "1\n"
    assert service.worker.backends.trusted


async def test_a_session_that_cannot_be_opened_is_told(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service("plain")
    assert service.worker.pool is not None

    async def refuse(*_: object) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(service.worker.pool, "lend_to_session", refuse)
    with pytest.raises(StreamerError, match="could not be opened"):
        await opened(service)
    await all_closed(service)
    assert not await service.jobs.sessions.list()


async def test_a_session_gets_the_place_of_one_that_has_just_ended(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service("plain", sessions={"max": 1})
    monkeypatch.setattr(in_memory, "NEWS_WAIT_S", 60.0)
    for _ in range(3):
        session = await opened(service)
        await service.jobs.sessions.end(session)


async def test_the_service_stops_with_a_session_open(open_service: OpenService) -> None:
    service = await open_service("plain")
    session = await opened(service)
    job = await service.jobs.submit(_reader(session))
    view = await job.view()
    while view.state != "running":
        await asyncio.sleep(0.01)
        view = await job.view()
    await service.drain(0)
    assert (await job.view()).result is not None


def _reader(session_id: str) -> JobSpec:
    return JobSpec(language="python", code="input()", interactive=True, session_id=session_id)


async def test_a_job_may_have_what_the_session_has_of_the_disk(open_service: OpenService) -> None:
    """Also if its language is given less by default: its watched workspace has the files of all."""
    service = await open_service("plain", limits={"default": {"disk_bytes": 2**20}})
    session = await opened(service, limits={"disk_bytes": 2**23})
    await service.jobs.sessions.write(session, "large", of(bytes(2**22)))
    assert (await python(service, session, "import time; time.sleep(0.3); print(1)")).out == "1\n"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("bwrap", 30),
        pytest.param("firejail", 30, marks=pytest.mark.slow),
        pytest.param("plain", 30, marks=pytest.mark.slow),
        pytest.param(
            *("bwrap", 1000),
            marks=[pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)],
        ),
    ],
)
async def test_sessions_one_after_another_leave_nothing(
    open_service: OpenService, need: Any, name: str, count: int
) -> None:
    service = await open_service(need(name), sessions={"max_ended": 10}, streams={"disk_bytes": 0})
    pool, engine = service.worker.pool, cast("MemoryEngine", service.engine)
    assert pool is not None

    async def one() -> None:
        session = await opened(service, limits={"disk_bytes": 2**20})
        await service.jobs.sessions.write(session, "a/file", of(b"x" * 1000))
        job = await service.jobs.submit(
            JobSpec(command=("cp", "a/file", "b"), session_id=session, artifacts=("b",))
        )
        assert (await ended(job)).verdict == "exited 0"
        assert await content(service, session, "b") == b"x" * 1000
        await service.jobs.sessions.end(session)
        await all_closed(service)
        await engine.purge(job.id)

    def left() -> tuple[object, ...]:
        gc.collect()
        processes, descriptors = kept_besides(pool)
        roots = () if pool.cgroups is None else pool.cgroups.roots
        groups = [group for root in roots for group in root.glob("*/")]
        return (
            processes,
            len(descriptors),
            len(groups) > 1,  # one may be kept for the next sandbox
            [pid for group in groups for pid in pids(group)],
            pool._users and len(pool._users._free),
            sorted(os.listdir(pool.folder.workspaces.path)),
            len(asyncio.all_tasks()),
            len(engine.sessions),
            engine.sessions.waiting_jobs,
        )

    for _ in range(12):
        await one()
    before = left()
    for _ in range(count):
        await one()
    assert left() == before
    await until_stored(engine.blobs, 0)
    assert len(engine.sessions._ended) == 10
    assert not engine.sessions._of

"""Calls that may block (disk, name server, kernel) delay neither the loop nor each other."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from streamer import spi
from streamer.eventlog import spool
from streamer.eventlog.pages import PAGE_BYTES
from streamer.eventlog.spool import Spool
from streamer.model.job import JobSpec, Limits, SourceFile
from streamer.sandbox.cgroups.cgroup import OVERHEAD_PROCESSES
from streamer.sandbox.cgroups.files import GroupFiles
from streamer.sandbox.cgroups.v2 import CgroupV2
from streamer.sandbox.drivers import direct
from streamer.sandbox.drivers import files as driver_files
from streamer.sandbox.drivers.direct import Direct as DirectDriver
from streamer.sandbox.host import workspace
from streamer.sandbox.host.state import StateFolder, state_folder
from streamer.sandbox.network import proxy
from streamer.sandbox.network.proxy import SystemAddresses
from streamer.testing.running import plugin
from tests.conftest import OpenService
from tests.running import ended

MIB = 1024 * 1024
MANY = 64
"""More than the threads of any executor."""


# -- none waits for another ---------------------------------------------------------------

Work = Callable[[], Coroutine[Any, Any, object]]


@pytest.fixture
def folder() -> Iterator[StateFolder]:
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o711)
        with state_folder(parent) as state:
            yield state


def test_what_is_shown_is_looked_for_again_once_it_is_there(folder: StateFolder) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = f"{name}/built-later"
        without = folder.shown((f"-{path}",), (), network=False)
        assert path not in {one.source for one in without}
        Path(path).mkdir()
        assert path in {one.source for one in folder.shown((f"-{path}",), (), network=False)}
        Path(path).rmdir()
        assert folder.shown((f"-{path}",), (), network=False) == without


@pytest.fixture
def works(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Work]]:
    """Everything that runs in threads, by what it may wait for. Each may be called many times."""
    monkeypatch.setattr(proxy, "_look_up", lambda _: [])  # a test has no name server
    look_up = SystemAddresses()
    old_events = Spool(MANY * 2 * PAGE_BYTES, folder.path)

    async def remove() -> None:
        async with folder.workspaces.lend(f"job-{len(started)}", None, on_host=True):
            started.append(None)

    started: list[None] = []

    async def write_files() -> None:
        path = Path(tempfile.mkdtemp(dir=folder.path))
        sandbox = DirectDriver(_no_session, path, folder.host, tuple)
        await sandbox.put_files((SourceFile("a", b"1"),), Limits())

    async def limit() -> None:
        path = _group(Path(tempfile.mkdtemp(dir=folder.path)), MIB)
        with contextlib.closing(CgroupV2((path,))) as group:
            await group.limit(Limits(memory_bytes=MIB))

    yield {
        "names": partial(look_up, "example.org"),
        "folders": remove,
        "events": partial(old_events.write, [b"x"]),
        "files": write_files,
        "groups": limit,
        "other": partial(asyncio.to_thread, _other),
    }
    old_events.close()


def _no_session(
    argv: tuple[str, ...], env: Mapping[str, str]
) -> contextlib.AbstractAsyncContextManager[spi.LaunchPlan]:
    raise AssertionError(argv, env)


def _other() -> None:
    """A call that the host application runs in the default executor."""


CALLS = {
    "names": (proxy, "_look_up"),
    "folders": (workspace, "remove_tree"),
    "events": (Spool, "_write"),
    "files": (direct, "write_files"),
    "groups": (CgroupV2, "set_limits"),
}


async def test_a_folder_that_is_slow_to_remove_keeps_its_own_place_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    remove_tree = workspace.remove_tree

    def slow(path: Path) -> None:
        if path.name.startswith("deep"):
            go_on.wait(60)
        remove_tree(path)

    async def job(name: str) -> None:
        async with state.workspaces.lend(name, None, on_host=True):
            pass

    monkeypatch.setattr(workspace, "remove_tree", slow)
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o711)
        with state_folder(parent, places=8) as state:
            others = [asyncio.create_task(job(f"deep-{number}")) for number in range(7)]
            try:
                await asyncio.wait_for(job("flat"), 30)
                assert not any(other.done() for other in others)
            finally:
                go_on.set()
                await asyncio.gather(*others)


@pytest.mark.parametrize("slow", [*CALLS, "other"])
async def test_what_is_slow_keeps_nothing_else_waiting(
    works: dict[str, Work], monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    go_on = threading.Event()

    def hang(*_: Any, **__: Any) -> list[Any]:
        assert threading.current_thread() is not threading.main_thread()
        go_on.wait(60)
        return []

    with monkeypatch.context() as patch:
        if slow == "other":
            works[slow] = partial(asyncio.to_thread, hang)
        else:
            patch.setattr(*CALLS[slow], hang)
        patch.setattr(spool, "WRITE_S", 600.0)  # after that a disk counts as broken
        hanging = [asyncio.ensure_future(works[slow]()) for _ in range(MANY)]
        await asyncio.sleep(0)  # for the last of them to have begun
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(30):
                for name in works.keys() - {slow}:
                    await works[name]()
            assert not any(waiting.done() for waiting in hanging)
        finally:
            go_on.set()
            await asyncio.gather(*hanging, return_exceptions=True)


# -- limits of a group that has more already ------------------------------------------------


def _group(folder: Path, used: int) -> Path:
    for name in ("pids.max", "memory.swap.max", "memory.max"):
        (folder / name).touch()
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"file {used}\nshmem 0\n")
    return folder


@pytest.mark.parametrize(
    ("used", "on_the_loop"),
    [(0, True), (32 * MIB, True), (33 * MIB, False), (64 * MIB, False), (65 * MIB, False)],
)
async def test_a_limit_for_which_the_kernel_reclaims_is_not_set_on_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int, *, on_the_loop: bool
) -> None:
    threads: set[bool] = set()
    write = GroupFiles.write

    def noted(files: GroupFiles, name: str, text: str) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        write(files, name, text)

    monkeypatch.setattr(GroupFiles, "write", noted)
    folder = _group(tmp_path, used)
    with contextlib.closing(CgroupV2((folder,))) as group:
        assert await group.limit(Limits(memory_bytes=64 * MIB, processes=7))
    assert threads == {on_the_loop}
    assert (folder / "memory.max").read_text() == str(64 * MIB)
    assert (folder / "pids.max").read_text() == str(7 + OVERHEAD_PROCESSES)


# -- files without our init ------------------------------------------------------------------


@dataclass(frozen=True)
class Direct(spi.Backend):
    """Runs without the init, so the service writes the files."""

    name: ClassVar[str] = "direct"
    isolation: ClassVar[spi.Isolation] = spi.Isolation.NONE
    gated: ClassVar[bool] = False

    def plan(self, job: spi.SandboxJob, workspace: Path) -> spi.LaunchPlan:
        return spi.LaunchPlan(
            argv=job.argv, cwd=str(workspace), workspace=str(workspace), start_as=job.identity
        )


async def test_files_are_written_beside_the_loop_and_given_up_when_the_job_is(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await open_service("direct", plugins=(plugin(Direct),))
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    written: list[str] = []
    given_up: list[threading.Event] = []
    write_files, write = driver_files.write_files, driver_files._Written.write

    def noted_files(
        folder: Path, files: Any, limit: int, event: threading.Event, project: int | None
    ) -> None:
        given_up.append(event)
        write_files(folder, files, limit, event, project)

    def slow_disk(self: Any, path: str, *rest: Any) -> None:
        loop.call_soon_threadsafe(begun.set)
        given_up[0].wait(20)
        written.append(path)
        write(self, path, *rest)

    monkeypatch.setattr(direct, "write_files", noted_files)
    monkeypatch.setattr(driver_files._Written, "write", slow_disk)
    sources = tuple(SourceFile(str(number), b"x") for number in range(20))
    job = await service.jobs.submit(JobSpec(command=("true",), files=sources))
    await begun.wait()
    await job.cancel()
    assert (await ended(job)).verdict.startswith("cancelled")
    assert written == ["0"]
    assert service.worker.pool is not None
    assert list((service.worker.pool.folder.path / "jobs").iterdir()) == []

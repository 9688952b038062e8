"""An init that answers nothing: every question to it fails in the end, in whatever task it is asked."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from streamer.errors import SandboxFailure
from streamer.model.job import SourceFile
from streamer.sandbox.drivers import files
from streamer.sandbox.drivers.deadlines import SLOWEST_NAMES_PER_S, fails_after, time_to_write
from streamer.sandbox.drivers.direct import Direct
from streamer.sandbox.drivers.gated import Gated
from streamer.sandbox.host import workspace
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.stdio import Stdio
from tests.sandbox.test_sandbox import LIMITS, MIB, lent, pool_of, shell, told

LARGE = {f"A{number}": "x" * 100_000 for number in range(10)}
"""Variables that fill the socket to the init."""

Ask = Callable[[Sandbox], Awaitable[object]]
QUESTIONS: dict[str, Ask] = {
    "files": lambda sandbox: sandbox.put_files((SourceFile("f", b"x"),), LIMITS),
    "large files": lambda sandbox: sandbox.put_files((SourceFile("f", bytes(MIB)),), LIMITS),
    "listen": lambda sandbox: sandbox.listen(7777),
    "open": lambda sandbox: sandbox.open_path("f", os.O_RDONLY),
    "use": lambda sandbox: sandbox.use(),
    "run": lambda sandbox: sandbox.run(shell("true", Stdio.null(), LIMITS, **LARGE)),
}


@pytest.fixture
def pool(need: Callable[[str], str]) -> Iterator[Pool]:
    need("bwrap")
    with pool_of() as pool:
        yield pool


@asynccontextmanager
async def stopped(pool: Pool) -> AsyncIterator[Sandbox]:
    """Borrow a sandbox whose init is stopped."""
    async with lent(pool, "bwrap") as sandbox:
        os.kill(init_of(sandbox), signal.SIGSTOP)
        yield sandbox


def init_of(sandbox: Sandbox) -> int:
    assert isinstance(sandbox._driver, Gated)
    return sandbox._driver._init_pid


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gated.START_TIMEOUT_S", "gated.ANSWER_TIMEOUT_S", "deadlines.FILES_TIMEOUT_S"):
        monkeypatch.setattr(f"streamer.sandbox.drivers.{name}", 0.1)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_a_question_that_is_not_answered_fails(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    async with stopped(pool) as sandbox:
        shorten(monkeypatch)
        async with asyncio.timeout(20):
            with pytest.raises(SandboxFailure, match="the init did not"):
                await QUESTIONS[question](sandbox)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_it_fails_too_in_a_task_that_was_cancelled(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    async def asked_at_the_end(sandbox: Sandbox) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                await QUESTIONS[question](sandbox)
            except SandboxFailure as failure:
                return str(failure)
        return ""

    async with stopped(pool) as sandbox:
        shorten(monkeypatch)
        asking = asyncio.create_task(asked_at_the_end(sandbox))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking}, timeout=20)
        assert "the init did not" in await asking


async def test_who_is_cancelled_while_it_asks_is_told_of_that_alone(pool: Pool) -> None:
    async with stopped(pool) as sandbox:
        asking = asyncio.ensure_future(sandbox.use())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking}, timeout=20)
        assert asking.cancelled()


async def test_a_cancellation_just_when_the_time_is_up_is_not_lost() -> None:
    async def asked() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with fails_after(0, "it took too long"):
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.Event().wait()

    asking = asyncio.create_task(asked())
    await asyncio.wait({asking}, timeout=20)
    assert asking.cancelled()


async def test_more_files_have_more_time(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stopped(pool) as sandbox:
        shorten(monkeypatch)
        monkeypatch.setattr("streamer.sandbox.drivers.deadlines.SLOWEST_BYTES_PER_S", MIB / 60)
        large = asyncio.create_task(sandbox.put_files((SourceFile("f", bytes(MIB)),), LIMITS))
        await asyncio.sleep(0)
        with pytest.raises(SandboxFailure, match="did not report"):
            await sandbox.use()  # has as much time as files without content
        assert not large.done()
        os.kill(init_of(sandbox), signal.SIGCONT)
        await large
        assert [entry.size for entry in (await sandbox.list_files()).entries] == [MIB]


async def test_a_disk_that_hangs_holds_up_files_without_our_init_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr("streamer.sandbox.drivers.direct.write_files", lambda *_: go_on.wait(60))
    shorten(monkeypatch)
    with pool_of() as pool:
        async with lent(pool, "direct") as sandbox:
            try:
                with pytest.raises(SandboxFailure, match="were not written in time"):
                    await sandbox.put_files((SourceFile("f", b"x"),), LIMITS)
            finally:
                go_on.set()


async def test_files_that_were_given_up_do_not_mix_with_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()
    write = files._Written.write

    def slow_disk(*args: Any) -> None:
        go_on.wait(60)
        write(*args)

    monkeypatch.setattr(files._Written, "write", slow_disk)
    shorten(monkeypatch)
    with pool_of() as pool:
        async with lent(pool, "direct") as sandbox:
            try:
                with pytest.raises(SandboxFailure, match="were not written in time"):
                    await sandbox.put_files((SourceFile("early", b"x"),), LIMITS)
                with pytest.raises(SandboxFailure, match="still being written"):
                    await sandbox.put_files((SourceFile("late", b"x"),), LIMITS)
                with pytest.raises(SandboxFailure, match="still being written"):
                    await sandbox.run(shell("true", Stdio.null()))
            finally:
                go_on.set()
            driver = sandbox._driver
            assert isinstance(driver, Direct)
            assert driver._writing is not None
            await asyncio.wait({driver._writing}, timeout=20)
            assert await told(sandbox, "ls") == (0, "")
            await sandbox.put_files((SourceFile("late", b"x"),), LIMITS)
            assert await told(sandbox, "ls; rm late") == (0, "late\n")


def test_each_name_has_time_too_that_of_a_folder_as_well() -> None:
    files = [SourceFile(f"{number}/f", b"") for number in range(SLOWEST_NAMES_PER_S)]
    assert time_to_write(files) - time_to_write(()) == pytest.approx(2)


async def test_a_folder_is_removed_only_when_no_thread_writes_to_it_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove_tree = workspace.remove_tree
    order: list[str] = []
    removed = threading.Event()

    def slow_disk(*_: object) -> None:
        removed.wait(0.5)  # only a wrong order ends it earlier
        order.append("written")

    def remove(path: Path) -> None:
        order.append("folder")
        removed.set()
        remove_tree(path)

    monkeypatch.setattr("streamer.sandbox.drivers.direct.write_files", slow_disk)
    monkeypatch.setattr(workspace, "remove_tree", remove)
    shorten(monkeypatch)
    with pool_of() as pool:
        async with lent(pool, "direct") as sandbox:
            with pytest.raises(SandboxFailure, match="were not written in time"):
                await sandbox.put_files((SourceFile("f", b"x"),), LIMITS)
    assert order == ["written", "folder"]

"""What templates show of the host may be replaced there."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from streamer.sandbox import lookout
from streamer.sandbox.host.replaced import What, what_is_at
from streamer.sandbox.pool import Pool
from tests.sandbox.templated import SHAPE, checked_pool, lent, told, until_ended


@pytest.fixture
async def pool(need: Callable[[str], str]) -> AsyncIterator[Pool]:
    need("bwrap")
    async with checked_pool("off") as opened:
        yield opened


@pytest.fixture
def folder(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every sandbox shows, as it does /usr, and that this test may replace."""
    monkeypatch.setattr(lookout, "LOOK_S", 0.01)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        (folder := Path(name, "usr")).mkdir(mode=0o755)
        host = replace(pool.folder.host, folders=(*pool.folder.host.folders, str(folder)))
        monkeypatch.setattr(pool.folder, "host", host)
        monkeypatch.setattr(pool.templates, "_host", host)
        yield folder


def replace_it(folder: Path) -> None:
    folder.rename(folder.with_name("old"))
    folder.mkdir(mode=0o755)


async def test_a_template_that_shows_a_replaced_folder_serves_no_further_job(
    pool: Pool, folder: Path
) -> None:
    async with lent(pool):
        pids = pool.templates.pids
    replace_it(folder)
    await until_ended(pool, pids)
    async with lent(pool) as sandbox:
        assert (await told(sandbox, "print(1)"))[1] == "1\n"


async def test_what_runs_in_a_template_when_the_host_changes_runs_on(
    pool: Pool, folder: Path
) -> None:
    # As an ordinary user the second sandbox would come from the same template.
    async with lent(pool) as sandbox:
        (kept,) = pool.templates._kept.values()
        replace_it(folder)
        while kept in pool.templates._kept.values():
            await asyncio.sleep(0.01)
        async with lent(pool):
            assert len(pool.templates.pids) == 4
        assert (await told(sandbox, "print(1)"))[1] == "1\n"
        assert kept.template.alive
    await kept.template.gone.wait()


async def test_a_sandbox_that_waits_is_given_up_with_its_template(pool: Pool, folder: Path) -> None:
    pool.held.tried("bwrap", "")
    pool.held._refill._processors.count = 1000  # whatever else runs on this machine
    async with lent(pool):
        pass
    async with asyncio.timeout(20):
        while pool.held.ahead.held != {"bwrap": 1}:
            await asyncio.sleep(0.01)
    replace_it(folder)
    await until_ended(pool, pool.templates.pids)
    assert pool.held.ahead.held == {}


async def test_a_template_lives_on_while_nothing_changes(
    pool: Pool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()

    def look(paths: Iterable[str]) -> Mapping[str, What]:
        loop.call_soon_threadsafe(looks.release)
        return what_is_at(paths)

    monkeypatch.setattr(lookout, "what_is_at", look)
    async with lent(pool):
        pids = pool.templates.pids
    (folder / "file").write_text("something else in it")
    for _ in range(4):
        await looks.acquire()
    assert pool.templates.pids == pids


async def test_a_file_system_that_hangs_costs_no_job_its_sandbox(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def hang(paths: Iterable[str]) -> Mapping[str, What]:
        answers.wait()
        return what_is_at(paths)

    monkeypatch.setattr(lookout, "what_is_at", hang)
    monkeypatch.setattr(lookout, "LOOK_TIMEOUT_S", 0.1)
    sandbox = await pool.lend(SHAPE)
    try:
        assert not sandbox.from_template
        assert (await told(sandbox, "print(1)"))[1] == "1\n"
    finally:
        await sandbox.close()
        answers.set()

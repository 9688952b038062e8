"""Whoever watches what is on the host is told when that is replaced, or changes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from streamer.errors import SandboxFailure
from streamer.sandbox import lookout as module
from streamer.sandbox.host.replaced import What, what_is_at
from streamer.sandbox.lookout import Lookout


class Looks:
    """The looks at the host, each of which begins and ends when this says so."""

    def __init__(self) -> None:
        self._may_begin = threading.Semaphore(0)
        self._has_looked = asyncio.Semaphore(0)
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self.may_end: list[threading.Event] = []

    def look(self, paths: Iterable[str]) -> Mapping[str, What]:
        if not self._over.is_set():
            self._may_begin.acquire()
        found = what_is_at(paths)
        self.may_end.append(may_end := threading.Event())
        self._loop.call_soon_threadsafe(self._has_looked.release)
        if not self._over.is_set():
            may_end.wait()
        return found

    async def begin(self) -> threading.Event:
        """Let somebody look, and return the event that lets it be known what was seen."""
        self._may_begin.release()
        await self._has_looked.acquire()
        return self.may_end[-1]

    def end_all(self) -> None:
        self._over.set()
        self._may_begin.release(2)  # there are two threads
        for may_end in self.may_end:
            may_end.set()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (path := tmp_path / "file").write_text("old")
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
async def lookout(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lookout]:
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    lookout = Lookout()
    yield lookout
    await lookout.close()


@pytest.fixture
async def looks(lookout: Lookout, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Looks]:
    looks = Looks()
    monkeypatch.setattr(module, "what_is_at", looks.look)
    yield looks
    looks.end_all()


class Told:
    """What somebody was told who watches."""

    def __init__(self) -> None:
        self.changes: list[Sequence[str]] = []
        self.event = asyncio.Event()

    def __call__(self, changed: Sequence[str]) -> None:
        self.changes.append(changed)
        self.event.set()


async def watching(lookout: Lookout, *paths: Path, content: bool = False) -> Told:
    told = Told()
    lookout.watch(await lookout.seen([*map(str, paths)]), told, content=content)
    return told


def replace(file: Path) -> None:
    (new := file.with_suffix(".new")).write_text("new")
    new.rename(file)


async def test_all_who_watch_it_are_told_once_that_a_file_was_replaced(
    lookout: Lookout, file: Path
) -> None:
    other = file.with_name("other")
    told = [await watching(lookout, file, other), await watching(lookout, file, content=True)]
    beside = await watching(lookout, other)
    replace(file)
    for one in told:
        await one.event.wait()
    replace(file)
    other.touch()
    await beside.event.wait()
    assert [one.changes for one in told] == [[[str(file)]], [[str(file)]]]
    assert beside.changes == [[str(other)]]


async def test_only_who_asks_for_that_is_told_of_new_content(lookout: Lookout, file: Path) -> None:
    only_the_file = await watching(lookout, file)
    content = await watching(lookout, file, content=True)
    file.write_text("new")
    await content.event.wait()
    assert only_the_file.changes == []
    replace(file)
    await only_the_file.event.wait()


async def test_who_has_ended_is_told_nothing(lookout: Lookout, file: Path) -> None:
    ended = Told()
    watch = lookout.watch(await lookout.seen([str(file)]), ended)
    told = await watching(lookout, file)
    lookout.end(watch)
    lookout.end(watch)
    replace(file)
    await told.event.wait()
    assert ended.changes == []


async def test_what_one_has_seen_is_what_was_there_at_the_last_look(
    lookout: Lookout, looks: Looks, file: Path
) -> None:
    starting = asyncio.create_task(watching(lookout, file))
    (await looks.begin()).set()
    first = await starting
    replace(file)  # since then nobody has looked
    second = await watching(lookout, file)
    (await looks.begin()).set()
    await first.event.wait()
    await second.event.wait()


async def test_who_is_late_to_hear_of_a_look_has_seen_what_others_have(
    lookout: Lookout, looks: Looks, file: Path
) -> None:
    late = asyncio.create_task(lookout.seen([str(file)]))
    may_hear = await looks.begin()
    replace(file)
    watches = asyncio.create_task(watching(lookout, file))
    (await looks.begin()).set()
    await watches
    may_hear.set()
    assert await late == what_is_at([str(file)])


async def test_who_begins_to_watch_during_a_look_is_judged_by_it(
    lookout: Lookout, looks: Looks, file: Path
) -> None:
    starting = asyncio.create_task(watching(lookout, file))
    (await looks.begin()).set()
    first = await starting
    replace(file)
    may_end = await looks.begin()
    second = await watching(lookout, file)  # has seen what was there before
    may_end.set()
    await first.event.wait()
    assert second.changes == [[str(file)]]


async def test_a_look_that_hangs_is_a_failure_of_who_waits_for_it(
    lookout: Lookout, looks: Looks, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_TIMEOUT_S", 0.01)
    with pytest.raises(SandboxFailure, match="could not be looked at in time"):
        await lookout.seen([str(file)])


async def test_after_a_look_that_hangs_nothing_from_before_counts(
    lookout: Lookout, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [await watching(lookout, file), await watching(lookout, file.with_name("other"))]
    hangs = threading.Event()
    monkeypatch.setattr(module, "LOOK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "what_is_at", lambda _: hangs.wait())
    try:
        async with asyncio.timeout(20):
            for one in told:
                await one.event.wait()
    finally:
        hangs.set()
    assert [one.changes for one in told] == [[[str(file)]], [[str(file.with_name("other"))]]]
    assert lookout._looking is None


async def test_it_looks_only_while_something_is_watched(lookout: Lookout, file: Path) -> None:
    watch = lookout.watch(await lookout.seen([str(file)]), Told())
    lookout.end(watch)
    async with asyncio.timeout(20):
        while lookout._looking is not None:
            await asyncio.sleep(0.001)
    replace(file)
    # What was there when it looked last is nothing to go by.
    assert await lookout.seen([str(file)]) == what_is_at([str(file)])


async def test_without_descriptors_it_looks_again_later(
    lookout: Lookout, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await watching(lookout, file)
    failed = threading.Event()

    def fail(paths: Iterable[str]) -> Mapping[str, What]:
        if failed.is_set():
            return what_is_at(paths)
        failed.set()
        raise OSError("no more")

    monkeypatch.setattr(module, "what_is_at", fail)
    replace(file)
    await told.event.wait()
    assert failed.is_set()

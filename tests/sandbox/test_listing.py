"""List the workspace of a real sandbox, whatever a job has left or does there."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import resource
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.bwrap import Bwrap
from streamer.errors import SandboxFailure
from streamer.sandbox.listing import MOST_DEPTH, Lister, Listing
from streamer.sandbox.pool import Pool
from streamer.sandbox.sandbox import THREADS, Sandbox
from streamer.sandbox.stdio import Stdio
from streamer.spi import LaunchPlan, SandboxJob
from tests.sandbox.test_sandbox import (
    BACKENDS,
    PLANTED,
    lent,
    opened,
    pool_of,
    shell,
    told,
    until_written,
)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with pool_of() as pool:
        yield pool


@pytest.fixture
async def sandbox(pool: Pool, backend: str) -> AsyncIterator[Sandbox]:
    async with lent(pool, backend) as sandbox:
        yield sandbox


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Be one, as many services are: root may open everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("mode", "names"), [(0o000, []), (0o444, []), (0o311, []), (0o755, ["x"])])
def test_a_folder_into_which_we_may_not_look(mode: int, names: list[str]) -> None:
    """It costs nothing but what is in it, and is told."""
    with as_ordinary_user(), tempfile.TemporaryDirectory() as name:
        at = Path(name)
        for folder in ("a", "closed", "z"):
            (at / folder).mkdir()
            (at / folder / "x").touch()
        (at / "closed").chmod(mode)
        lister = Lister(os.open(at, os.O_RDONLY), most=100)
        with contextlib.closing(lister):
            listing = lister.go_on(60)
        (at / "closed").chmod(0o755)
    assert listing is not None
    found = sorted(entry.path for entry in listing.entries)
    assert found == ["a", "a/x", "closed", *(f"closed/{name}" for name in names), "z", "z/x"]
    assert (listing.complete, listing.closed) == (True, not names)


@pytest.mark.parametrize(("mode", "complete"), [(0o000, True), (0o444, False)])
def test_names_of_a_closed_folder_count_though_they_are_not_listed(
    mode: int, *, complete: bool
) -> None:
    """A job may make as many as it likes; a folder that is not even read has counted itself."""
    with as_ordinary_user(), tempfile.TemporaryDirectory() as name:
        closed = Path(name, "closed")
        closed.mkdir()
        for number in range(10):
            (closed / f"{number}").touch()
        closed.chmod(mode)
        lister = Lister(os.open(name, os.O_RDONLY), most=1)
        with contextlib.closing(lister):
            listing = lister.go_on(60)
        closed.chmod(0o755)
    assert listing is not None
    assert [entry.path for entry in listing.entries] == ["closed"]
    assert (listing.complete, listing.closed) == (complete, complete)


@contextlib.contextmanager
def few_descriptors(more: int) -> Iterator[None]:
    """Let this process open no more than so many descriptors besides those that it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_workspace_is_listed(sandbox: Sandbox) -> None:
    assert await told(sandbox, PLANTED) == (0, "")
    listing = await sandbox.list_files()
    assert listing.complete
    listed = {entry.path: entry for entry in listing.entries}
    names = {"inside", "folder", "closed", "link", "etc", "passwd", "up", "other", "fds"}
    assert set(listed) == names | {"folder/twice", "pipe", "sock"}
    assert stat.S_ISLNK(listed["etc"].mode)
    assert stat.S_ISDIR(listed["folder"].mode)
    assert (stat.S_IMODE(listed["inside"].mode), listed["inside"].size) == (0o644, 7)
    for most, complete in ((5, False), (len(names) + 2, False), (len(names) + 3, True)):
        listing = await sandbox.list_files(most)
        assert (len(listing.entries), listing.complete) == (most, complete)


async def test_a_name_that_is_no_text_is_listed_and_opened(sandbox: Sandbox) -> None:
    assert await told(sandbox, "printf x >\"$(printf 'a\\377b')\"; printf y >'a\nb'") == (0, "")
    found = sorted(os.fsencode(entry.path) for entry in (await sandbox.list_files()).entries)
    assert found == [b"a\nb", b"a\xffb"]
    assert await opened(sandbox, os.fsdecode(b"a\xffb")) == b"x"


def nested(depth: int, name: str) -> str:
    """Return a script that makes folders inside one another, and a file in the innermost."""
    return f"""python3 -c '
import os
for _ in range({depth}):
    os.mkdir("{name}")
    os.chdir("{name}")
open("file", "w").write("here")'"""


async def test_what_has_a_longer_path_than_can_be_opened_is_listed(sandbox: Sandbox) -> None:
    name = "x" * 255
    assert await told(sandbox, nested(20, name)) == (0, "")
    with few_descriptors(8):
        listing = await sandbox.list_files()
    assert listing.complete
    assert listing.entries[-1].path == f"{name}/" * 20 + "file"
    assert (listing.entries[-1].size, len(listing.entries)) == (4, 21)


async def test_folders_too_deep_inside_one_another_are_told_of(sandbox: Sandbox) -> None:
    assert await told(sandbox, nested(MOST_DEPTH, "d") + "; touch other") == (0, "")
    listing = await sandbox.list_files()
    assert (len(listing.entries), listing.complete) == (MOST_DEPTH + 1, False)
    assert await told(sandbox, "mkdir e; mv d/d e; rm -r d") == (0, "")
    listing = await sandbox.list_files()
    assert (len(listing.entries), listing.complete) == (MOST_DEPTH + 1, False)
    assert await told(sandbox, "mv e/d d; rm -r e") == (0, "")
    listing = await sandbox.list_files()
    assert (len(listing.entries), listing.complete) == (MOST_DEPTH + 1, True)
    assert "other" in {entry.path for entry in listing.entries}


async def test_paths_that_are_too_long_together_are_told_of(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await told(sandbox, f"mkdir {'x' * 200}; touch {'x' * 200}/a") == (0, "")
    for most, complete in ((150, False), (250, True)):
        monkeypatch.setattr("streamer.sandbox.listing.MOST_CHARACTERS", most)
        listing = await sandbox.list_files()
        assert (len(listing.entries), listing.complete) == (1 + complete, complete)


async def test_no_link_is_listed_through_that_comes_and_goes(sandbox: Sandbox) -> None:
    """A job moves a link to and fro in the place of a folder."""
    script = """
        mkdir real; echo inside >real/inside; ln -s /etc link; echo up
        while :; do mv -T real at; mv -T at real; mv -T link at; mv -T at link; done
    """
    stdio = Stdio.pipes()
    running = await sandbox.run(shell(script, stdio))
    await until_written(stdio)
    found = {entry.path for _ in range(100) for entry in (await sandbox.list_files()).entries}
    assert found <= {"real", "link", "at", "real/inside", "at/inside"}
    await sandbox.kill()
    await running.ended
    stdio.close()


async def test_a_disk_that_hangs_holds_up_a_listing_for_so_long(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    list_on = Lister.go_on

    def hang(lister: Lister, seconds: float) -> Listing | None:
        go_on.wait(60)
        return list_on(lister, seconds)

    monkeypatch.setattr(Lister, "go_on", hang)
    monkeypatch.setattr("streamer.sandbox.sandbox.LIST_TIMEOUT_S", 0.1)
    asked = [asyncio.create_task(sandbox.list_files()) for _ in range(5)]
    try:
        await asyncio.wait(asked, timeout=20)
        for one in asked:
            with pytest.raises(SandboxFailure, match="not listed in time"):
                await one
    finally:
        go_on.set()
    # Whether a thread had begun with it or not, each closes its descriptor: see `lent`.
    both_free = threading.Barrier(2, timeout=20)
    waits = [asyncio.wrap_future(THREADS.submit(both_free.wait)) for _ in range(2)]
    await asyncio.gather(*waits)


async def test_workspaces_are_listed_in_turns(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes long does not keep the others waiting."""
    assert await told(sandbox, "mkdir -p a/b c; touch a/b/f d") == (0, "")
    begun: set[Lister] = set()
    turns: list[Lister] = []
    list_on = Lister.go_on

    def counted(lister: Lister, _: float) -> Listing | None:
        begun.add(lister)
        if len(begun) < 3:
            return None  # or it might be over before the others have begun
        turns.append(lister)
        return list_on(lister, 0.0)

    monkeypatch.setattr(Lister, "go_on", counted)
    listings = await asyncio.gather(*(sandbox.list_files() for _ in range(3)))
    for listing in listings:
        assert [entry.path for entry in listing.entries if "b" in entry.path] == ["a/b", "a/b/f"]
        assert len(listing.entries) == 5
    # One for each folder and entry, and none has all of them in a row.
    assert len(turns) == 3 * (4 + 5 + 1)
    assert max(len([*same]) for _, same in itertools.groupby(turns)) < 10


class Showing(Bwrap):
    """Mounts something into the workspace, as it does with a path of the host beneath /work."""

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        plan = super().plan(job, workspace)
        at = plan.argv.index("--chdir")
        shown = ("--ro-bind", "/usr/bin", "/work/shown")
        return replace(plan, argv=(*plan.argv[:at], *shown, *plan.argv[at:]))


async def test_what_is_mounted_in_the_workspace_is_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, need: Callable[[str], str]
) -> None:
    need("bwrap")
    monkeypatch.setitem(BACKENDS, "showing", Showing())
    with pool_of() as pool:
        async with lent(pool, "showing") as sandbox:
            assert await told(sandbox, "test -x shown/env && touch own") == (0, "")
            for path, flags in (("shown/env", os.O_RDONLY), ("shown", os.O_DIRECTORY)):
                with pytest.raises(OSError) as refused:
                    os.close(await sandbox.open_path(path, flags))
                assert refused.value.errno == errno.EXDEV
            listing = await sandbox.list_files()
            assert {entry.path for entry in listing.entries} == {"shown", "own"}
            assert listing.complete

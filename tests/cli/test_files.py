"""The files that jobs leave, as a shell sees them: what is saved, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from streamer.cli.saving import save_all
from streamer.saving import save
from tests.cli.test_commands import COMMAND, ENVIRON, command
from tests.conftest import Start
from tests.support import follow, submit
from tests.web import python

LEAVES = """
import os
os.makedirs("out/deep")
open("out/a.txt", "w").write("one")
open("out/deep/b.txt", "w").write("two")
os.symlink("a.txt", "out/link.txt")
raise SystemExit(3)
"""


async def at(folder: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command while this process serves."""
    running = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        cwd=folder,
        env=ENVIRON,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(running.communicate(), 60)
    return running.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("place", ["here", "at a service"])
async def test_run_saves_what_it_is_asked_for(tmp_path: Path, start: Start, place: str) -> None:
    (tmp_path / "leave.py").write_text(LEAVES)
    where: tuple[str, ...] = ()
    if place == "at a service":
        where = ("--url", str((await start()).make_url("/")))
    patterns = ("--artifact", "out/**/*.txt", "--artifact", "none")
    ran = await at(tmp_path, "run", *where, *patterns, "-o", "new/results", "leave.py")
    assert ran == (
        3,
        "",
        "streamer: not kept: out/link.txt: not_a_file\nstreamer: not kept: none: no_match\n",
    )
    results = tmp_path / "new" / "results"
    found = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    assert found == {"out/a.txt", "out/deep/b.txt"}
    assert (results / "out/a.txt").read_text() == "one"


@pytest.mark.parametrize("arguments", [("--artifact", "a"), ("-o", "x")])
def test_patterns_and_a_folder_need_each_other(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = command(tmp_path, "run", *arguments, "main.py")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--artifact" in done.stderr


async def test_files_of_a_job_at_a_service(tmp_path: Path, start: Start) -> None:
    client = await start()
    job = await submit(client, **python(LEAVES, artifacts=["out/**"]))
    await follow(client, job)
    url = ("--url", str(client.make_url("/")))
    code, out, err = await at(tmp_path, "files", job, *url)
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["name", "bytes"],
        ["out/a.txt", "3"],
        ["out/deep/b.txt", "3"],
    ]
    code, out, err = await at(tmp_path, "files", job, "--json", *url)
    assert [file["name"] for file in json.loads(out)["files"]] == ["out/a.txt", "out/deep/b.txt"]
    assert await at(tmp_path, "files", job, "out/a.txt", *url) == (0, "one", "")
    assert await at(tmp_path, "files", job, "out/a.txt", "-o", "saved", *url) == (0, "", "")
    assert (tmp_path / "saved").read_text() == "one"
    (tmp_path / "folder").mkdir()
    assert await at(tmp_path, "files", job, "out/deep/b.txt", "-o", "folder", *url) == (0, "", "")
    assert (tmp_path / "folder" / "b.txt").read_text() == "two"
    assert await at(tmp_path, "files", job, "out/a.txt", "-o", "new/", *url) == (0, "", "")
    assert (tmp_path / "new" / "a.txt").read_text() == "one"
    assert await at(tmp_path, "files", job, "-o", "all", *url) == (0, "", "")
    assert (tmp_path / "all" / "out" / "deep" / "b.txt").read_text() == "two"
    for arguments in ((job, "none"), ("nojob",)):
        code, out, err = await at(tmp_path, "files", *arguments, *url)
        assert (code, out, err.count("\n")) == (125, "", 1)
    code, out, err = await at(tmp_path, "files", job, "../../queue", *url)
    assert (code, out, err.count("\n")) == (2, "", 1)


async def chunks(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def test_a_file_replaces_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("something longer")
    await save(str(tmp_path), "a", chunks(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"


def link_file(folder: Path, outside: Path) -> str:
    (folder / "a").symlink_to(outside / "victim")
    return "a"


def link_folder(folder: Path, outside: Path) -> str:
    (folder / "sub").symlink_to(outside)
    return "sub/victim"


def pipe(folder: Path, _: Path) -> str:
    os.mkfifo(folder / "a")
    return "a"


def above(folder: Path, outside: Path) -> str:
    return f"../{outside.name}/victim"


def absolute(_: Path, outside: Path) -> str:
    return str(outside / "victim")


@pytest.mark.parametrize("lay", [link_file, link_folder, pipe, above, absolute])
async def test_nothing_is_written_outside_of_the_folder(
    tmp_path: Path, lay: Callable[[Path, Path], str]
) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    with pytest.raises(OSError):
        await save(str(folder), lay(folder, outside), chunks(b"new"))
    assert (outside / "victim").read_text() == "untouched"
    assert os.listdir(outside) == ["victim"]


async def test_files_that_nobody_asked_for_are_not_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [(name, chunks(b"x")) for name in (".bashrc", "out/a", "out/b/c")]
    assert await save_all(str(tmp_path), ["out/*"], files)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
    (tmp_path / "out" / "d").symlink_to("/nowhere")
    assert not await save_all(str(tmp_path), ["out/*"], [("out/d", chunks(b"x"))])
    assert capsys.readouterr().err.startswith("streamer: out/d: ")

"""The init unpacks a project beneath the files of a job; also one that nobody has checked."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from streamer.model.project import HEAD, end_of_project, head_of
from tests.sandbox.init_peer import Init

FILE = 0o100644


def project(*entries: tuple[str, bytes | None], end: bool = True) -> bytes:
    """Return a stored project; an entry without content is a folder."""
    stored = b"".join(
        head_of(name, len(content or b""), folder=content is None) + (content or b"")
        for name, content in entries
    )
    return stored + (end_of_project(len(stored)) if end else b"")


def entry(name: bytes, content: bytes = b"", mode: int = FILE, size: int | None = None) -> bytes:
    """Return an entry that nobody has checked."""
    return HEAD.pack(len(name), mode, len(content) if size is None else size) + name + content


def unpack(init: Init, stored: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(stored)
        file.flush()
        fd = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
        hand_over(init, fd)


def hand_over(init: Init, fd: int) -> None:
    socket.send_fds(init.sock, [struct.pack("<I", 1) + b"Z"], [fd])
    os.close(fd)


def found(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def test_it_unpacks_folders_and_files(init: Init, tmp_path: Path) -> None:
    large = os.urandom(1_000_003)
    contents = {"a": None, "a/b": None, "a/b/1": b"one", "a/2": b"", "large": large, "e": None}
    unpack(init, project(*contents.items()))
    assert init.files_written() == 0
    assert found(tmp_path) == contents


def test_modes(init: Init, tmp_path: Path) -> None:
    stored = head_of("run", 0, executable=True) + head_of("data", 0) + entry(b"odd", mode=0o104777)
    unpack(init, stored + end_of_project(len(stored)))
    assert init.files_written() == 0
    modes = {path.name: oct(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"run": "0o100755", "data": "0o100644", "odd": "0o100755"}


@pytest.mark.parametrize("length", range(1, 40, 3))
def test_entries_wherever_its_reads_end(init: Init, tmp_path: Path, length: int) -> None:
    contents = {"x" * length: bytes(128 * 1024 - 60)}
    contents |= {f"{n}": bytes([n]) * n for n in range(50)}
    unpack(init, project(*contents.items()))
    assert init.files_written() == 0
    assert found(tmp_path) == contents


def test_files_lie_over_it(init: Init, tmp_path: Path) -> None:
    unpack(init, project(("a", None), ("a/1", b"a long one"), ("2", b"two")))
    init.send(b"F", struct.pack("<I", 0o644) + b"a/1\0one")
    init.send(b"F", struct.pack("<I", 0o644) + b"a/c/3\0three")
    assert init.files_written() == 0
    assert found(tmp_path) == {
        "a": None,
        "a/1": b"one",
        "a/c": None,
        "a/c/3": b"three",
        "2": b"two",
    }


@pytest.mark.parametrize(
    "name",
    [b"..", b"../x", b"a/../../x", b".", b"./x", b"a//x", b"/x", b"x/", b"x\0y", b"x" * 1025],
)
def test_a_name_that_nobody_has_checked(init: Init, tmp_path: Path, name: bytes) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    unpack(init, entry(b"fine", b"x") + entry(name, b"x") + end_of_project(0))
    assert init.files_written() == errno.EPROTO
    assert list(tmp_path.iterdir()) == [inner]
    assert list(inner.iterdir()) == []


@pytest.mark.parametrize("mode", [0, 0o120777, 0o010644, 0o020644, 0o060644, 0o140644])
def test_nothing_but_files_and_folders(init: Init, tmp_path: Path, mode: int) -> None:
    unpack(init, entry(b"x", b"/etc/passwd", mode) + end_of_project(0))
    assert init.files_written() == errno.EPROTO
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_content(init: Init, tmp_path: Path) -> None:
    unpack(init, entry(b"x", b"content", 0o040755) + end_of_project(0))
    assert init.files_written() == errno.EPROTO
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 5, 16, 17, 20, 30])
def test_one_that_is_truncated(init: Init, tmp_path: Path, cut: int) -> None:
    unpack(init, project(("a", b"content"), ("b", b"content"), end=False)[:cut])
    assert init.files_written() == errno.EPROTO
    assert list(tmp_path.iterdir()) == []


def test_it_follows_no_link_and_replaces_nothing(init: Init, tmp_path: Path) -> None:
    """A program may have run before."""
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    work = tmp_path
    (work / "link").symlink_to(outside)
    (work / "file").write_text("mine")
    (work / "folder").mkdir()
    before = found(work)
    for name, content, number in (
        ("link/x", b"x", errno.ELOOP),
        ("link", b"x", errno.EEXIST),
        ("file", b"x", errno.EEXIST),
        ("folder", None, errno.EEXIST),
    ):
        init.send(b"Q", struct.pack("<I", 100))
        unpack(init, project(("new", None), ("new/file", b"x"), (name, content)))
        assert init.files_written() == number
        assert found(work) == before
    assert list(outside.iterdir()) == []


def test_what_does_not_fit_leaves_nothing(init: Init, tmp_path: Path) -> None:
    entries = [("a", None), ("a/b", None), *((f"a/b/{n}", b"x" * 5000) for n in range(10))]
    for inodes, disk, fits in ((12, 1 << 20, True), (11, 1 << 20, False), (1000, 20_000, False)):
        init.send(b"Q", struct.pack("<I", inodes))
        unpack(init, project(*entries))
        written = init.files_written(disk, inodes=1000)
        assert written == (0 if fits else errno.EDQUOT)
        assert (tmp_path / "a").exists() == fits
        if fits:
            for n in range(10):
                (tmp_path / f"a/b/{n}").unlink()
            (tmp_path / "a/b").rmdir()
            (tmp_path / "a").rmdir()


def test_after_a_project_that_failed_no_file_is_written(init: Init, tmp_path: Path) -> None:
    unpack(init, b"")
    init.send(b"F", struct.pack("<I", 0o644) + b"x\0x")
    assert init.files_written() == errno.EPROTO
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_takes_the_project_with_it(
    init: Init, tmp_path: Path
) -> None:
    unpack(init, project(("a", None), ("a/1", b"x"), ("b", b"x")))
    init.send(b"F", struct.pack("<I", 0o644) + b"a/c/3\0x")
    init.send(b"F", struct.pack("<I", 0o644) + b"b/2\0x")
    assert init.files_written() == errno.ENOTDIR
    assert list(tmp_path.iterdir()) == []


def test_a_project_without_a_descriptor(init: Init) -> None:
    init.send(b"Z")
    assert init.read()[0] == b"E"


def test_a_project_with_the_descriptors_of_a_program(init: Init) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    socket.send_fds(init.sock, [struct.pack("<I", 1) + b"Z"], [null] * 3)
    os.close(null)
    assert init.read()[0] == b"E"


def test_its_descriptor_is_closed(init: Init, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    for stored in (project(("a", b"x")), b"", project(("a", b"x"))):
        upload.write_bytes(stored)
        fd = os.open(upload, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        hand_over(init, fd)
        init.files_written()
        # The lock is that of the open file, and goes with its last descriptor (flock(2)).
        with upload.open() as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

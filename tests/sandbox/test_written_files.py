"""Files that the service itself writes, for a sandbox without our init."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest

from streamer.model.job import SourceFile
from streamer.sandbox.drivers.files import write_files
from streamer.sandbox.shape import FilesDoNotFit

USER = (60800, 60801) if os.geteuid() == 0 else (os.getuid(), os.getgid())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of a sandbox's user."""
    os.chown(tmp_path, *USER)
    return tmp_path


def write(folder: Path, *files: SourceFile, limit: int = 1 << 30) -> None:
    write_files(folder, files, limit, threading.Event())


def test_a_file_is_replaced_whole_and_has_its_mode(folder: Path) -> None:
    write(folder, SourceFile("a", b"a long one", 0o600), SourceFile("b/c/d", b"deep", 0o755))
    write(folder, SourceFile("a", b"short", 0o640))
    assert (folder / "a").read_bytes() == b"short"
    modes = [(folder / name).stat().st_mode & 0o777 for name in ("a", "b/c/d", "b", "b/c")]
    assert modes == [0o640, 0o755, 0o755, 0o755]


def test_what_is_written_belongs_to_the_owner_of_the_folder(folder: Path) -> None:
    write(folder, SourceFile("a/b/c", b"x"))
    for path in (folder / "a", folder / "a/b", folder / "a/b/c"):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == USER


@pytest.mark.parametrize("size", [256, 16384])
def test_files_may_take_as_much_as_the_limit_and_no_more(folder: Path, size: int) -> None:
    files = [SourceFile(name, bytes(range(256)) * (size // 256)) for name in ("a", "b")]
    write(folder, *files)
    taken = sum((folder / file.name).stat().st_blocks * 512 for file in files)
    assert taken >= 2 * size
    write(folder, *files, limit=taken)
    with pytest.raises(FilesDoNotFit):
        write(folder, *files, limit=taken - 1)
    assert list(folder.iterdir()) == []


def test_a_file_that_is_written_in_part_is_removed(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(folder, SourceFile("a/small", b"x"), SourceFile("b/large", bytes(200_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []

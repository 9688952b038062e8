"""The init writes the files of a job; malformed and too many ones too."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from tests.sandbox.init_peer import Init, run_frame


@pytest.mark.parametrize(
    "payload", [b"", b"\0" * 4, b"\xa4\1\0\0name-without-end", b"\xa4\1\0\0\0"]
)
def test_it_refuses_a_malformed_file(init: Init, payload: bytes, tmp_path: Path) -> None:
    init.send(b"F", payload)
    assert init.files_written() != 0
    assert list(tmp_path.iterdir()) == []


def test_it_writes_files_in_parts(init: Init, tmp_path: Path) -> None:
    init.send(b"F", struct.pack("<I", 0o640) + b"a/b\0one ")
    init.send(b"A", b"two")
    init.send(b"F", struct.pack("<I", 0o6777) + b"c\0")
    assert init.files_written() == 0
    assert (tmp_path / "a/b").read_bytes() == b"one two"
    assert (tmp_path / "a/b").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "c").stat().st_mode & 0o7777 == 0o777


def test_it_does_not_write_more_of_no_file(init: Init) -> None:
    init.send(b"A", b"content")
    assert init.files_written() == errno.EBADF


def test_after_a_file_that_failed_it_writes_no_other_and_runs_no_program(
    init: Init, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    for name in (b"a", b"taken", b"b"):
        init.send(b"F", struct.pack("<I", 0o644) + name + b"\0content")
    init.send_stdio()
    init.send(b"R", run_frame("/bin/touch", str(tmp_path / "ran")))
    kind, told = init.read()
    assert (kind, told[:1]) == (b"E", b"r")
    assert init.files_written() == errno.EISDIR
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_once_it_has_told_of_a_file_that_failed_it_goes_on_as_before(
    init: Init, tmp_path: Path
) -> None:
    (tmp_path / "taken").mkdir()
    init.send(b"F", struct.pack("<I", 0o644) + b"taken\0content")
    assert init.files_written() == errno.EISDIR
    init.send_stdio()
    init.send(b"R", run_frame("/bin/touch", str(tmp_path / "ran")))
    assert init.read()[0] == b"X"
    init.send(b"F", struct.pack("<I", 0o644) + b"a\0content")
    assert init.files_written() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ran", "taken"]


def test_files_that_were_given_up_do_not_count_for_the_next(init: Init, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    init.send(b"F", struct.pack("<I", 0o644) + b"given/up\0content")
    init.send(b"F", struct.pack("<I", 0o644) + b"taken\0content")
    init.send(b"Q", struct.pack("<I", 1000))
    init.send(b"F", struct.pack("<I", 0o644) + b"a\0content")
    assert init.files_written() == 0
    init.send(b"F", struct.pack("<I", 0o644) + b"b\0content")
    init.send(b"Q", struct.pack("<I", 1000))
    init.send(b"F", struct.pack("<I", 0o644) + b"taken\0content")
    assert init.files_written() == errno.EISDIR
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "given", "taken"]


def test_of_files_that_cannot_all_be_written_nothing_is_left(init: Init, tmp_path: Path) -> None:
    (tmp_path / "old/taken").mkdir(parents=True)
    (tmp_path / "old/file").write_text("old")
    (tmp_path / "link").symlink_to("old")
    before = sorted(tmp_path.rglob("*"))
    for last in (b"old/taken", b"link", b"link/f", b"old/file/f", b"old/new/x/x/" + b"n" * 300):
        for name in (b"a", b"b/c/d/e", b"b/c/f", b"old/new/f", b"b/g", b"a", last):
            init.send(b"F", struct.pack("<I", 0o644) + name + b"\0content")
        assert init.files_written() != 0
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "old/file").read_text() == "old"


@pytest.mark.parametrize(
    ("size", "files", "limits", "told"),
    [
        (4096, 3, (2**20, 100), 0),
        (100_000, 3, (200_000, 100), errno.EDQUOT),
        (0, 40, (2**20, 30), errno.EDQUOT),
        (0, 40, (2**20, 50), 0),
    ],
)
def test_what_comes_with_a_job_counts_to_its_disk_limit(
    init: Init, size: int, files: int, limits: tuple[int, int], told: int
) -> None:
    for number in range(files):
        init.send(b"F", struct.pack("<I", 0o644) + b"%d\0" % number + b"x" * size)
    assert init.files_written(*limits) == told
    assert init.files_written() == 0


@pytest.mark.parametrize("quota", [0, 1, 7])
def test_it_makes_no_more_files_and_folders_than_it_was_told(
    init: Init, quota: int, tmp_path: Path
) -> None:
    init.send(b"Q", struct.pack("<I", quota))
    for name in (b"a", b"b/c/d/e", b"b/c/f", b"g" + b"/x" * 500):
        init.send(b"F", struct.pack("<I", 0o644) + name + b"\0")
    init.send_stdio()
    init.send(b"R", run_frame("/bin/true"))
    assert init.read()[0] == b"E"  # before it removes them
    # One folder over the limit may exist: only creating it shows that it is new.
    assert quota <= len(list(tmp_path.rglob("*"))) <= quota + 1
    assert init.files_written() == errno.EDQUOT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("payload", [b"", bytes(3), bytes(5)])
def test_it_refuses_a_malformed_quota(init: Init, payload: bytes) -> None:
    init.send(b"Q", payload)
    assert init.read()[0] == b"E"


@pytest.mark.parametrize("payload", [b"", bytes(15), bytes(17)])
def test_it_refuses_a_malformed_question_for_the_files(init: Init, payload: bytes) -> None:
    init.send(b"C", payload)
    assert init.read()[0] == b"E"


def test_it_does_not_follow_a_link_where_a_file_goes(init: Init, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    init.send(b"F", struct.pack("<I", 0o644) + b"link\0content")
    assert init.files_written() == errno.ELOOP
    assert not (tmp_path / "target").exists()

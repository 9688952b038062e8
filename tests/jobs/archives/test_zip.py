"""Zip archives: what writes them, and what lies in them."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import Bounds

from . import BOUNDS, MIB, RawZip, entries, files_in, unpack, zip_of, zipped

LARGE = 0xFFFFFFFF


def one(name: bytes = b"a", content: bytes = b"content", **lies: object) -> bytes:
    archive = RawZip()
    archive.add(name, content, **lies)  # type: ignore[arg-type]
    return archive.end()


def test_the_honest_one() -> None:
    assert files_in(one()) == {"a": b"content"}
    assert files_in(one(method=0)) == {"a": b"content"}


def test_folders(tmp_path: Path) -> None:
    archive = zip_of([("sub/", b""), ("sub/a", b"1"), (zipped("unix", 0o040755), b"")])
    assert files_in(archive) == {"sub/a": b"1"}


def test_what_zip_writes(tmp_path: Path) -> None:
    program = shutil.which("zip")
    if program is None:
        pytest.skip("there is no zip")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ä.py").write_text("print(1)\n" * 100)
    subprocess.run([program, "-qr", "x.zip", "."], cwd=tmp_path, check=True)
    assert files_in((tmp_path / "x.zip").read_bytes()) == {"sub/ä.py": b"print(1)\n" * 100}


def test_an_archive_that_was_written_as_a_stream() -> None:
    """Sizes come after the content, and in the directory."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", 8) as archive:
        archive.writestr("a", b"1" * 1000)
        archive.writestr("b", b"2")
    assert files_in(pipe.data) == {"a": b"1" * 1000, "b": b"2"}


def test_zip64() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", 8) as archive, archive.open("a", "w", force_zip64=True) as file:
        file.write(b"1" * 1000)
    assert files_in(out.getvalue()) == {"a": b"1" * 1000}
    large: dict[str, Any] = {"size": LARGE, "packed_size": LARGE}
    local_extra = struct.pack("<HHQQ", 1, 16, 7, 9)
    for local, fine in (
        (local_extra, True),
        (struct.pack("<HHQQ", 1, 16, 8, 9), False),
        (b"", False),
    ):
        raw = RawZip()
        extra = b"\0\0\0\0" + struct.pack("<HHQQQ", 1, 24, 7, 9, 0)
        raw.add(b"a", b"content", extra=extra, at=LARGE, local_extra=local, **large)
        if fine:
            assert files_in(raw.end()) == {"a": b"content"}
        else:
            with pytest.raises(InvalidRequest, match=r"'a'.*(differ|missing)"):
                files_in(raw.end())


def end_64(raw: RawZip, **lies: Any) -> bytes:
    start, size = len(raw.body), len(raw.directory)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, raw.count, raw.count, size, start
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, start + size, lies.pop("disks", 1))
    return raw.end(before=record + locator, **lies)


def test_a_directory_of_zip64() -> None:
    raw = RawZip()
    raw.add(b"a", b"content")
    assert files_in(end_64(raw)) == {"a": b"content"}
    assert files_in(end_64(raw, count=0xFFFF, size=LARGE, at=LARGE)) == {"a": b"content"}
    for lie in ({"count": 2}, {"size": 1}, {"at": 0}):
        with pytest.raises(InvalidRequest, match=r"two directories"):
            files_in(end_64(raw, **lie))
    with pytest.raises(InvalidRequest, match=r"damaged"):
        files_in(end_64(raw, disks=2))


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (0o120777, "symbolic link"),
        (0o020666, "character device"),
        (0o060666, "block device"),
        (0o010666, "FIFO"),
        (0o140777, "socket"),
    ],
)
@pytest.mark.parametrize("system", [0, 3, 19])
def test_what_is_neither_file_nor_folder(mode: int, said: str, system: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"'sub/evil'.*{said}"):
        files_in(zip_of([(zipped("sub/evil", mode, system), b"/etc/passwd")]))


@pytest.mark.parametrize(
    ("name", "said"), [(b"a\0b", "NUL"), (b"a\xff", "UTF-8"), (b"a\\b", "backslash")]
)
def test_names_python_does_not_write(name: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        files_in(one(name))


def test_headers_that_differ_from_the_directory() -> None:
    for lie in (
        {"local_name": b"b"},
        {"local_name": b"../../a"},
        {"local_method": 0},
        {"local_flags": 1},
        {"local_sizes": (0, 9, 7)},
        {"local_sizes": (zlib.crc32(b"content"), 8, 7)},
        {"local_sizes": (zlib.crc32(b"content"), 9, 8)},
    ):
        with pytest.raises(InvalidRequest, match=r"'a'.*differ"):
            files_in(one(**lie))
    later: dict[str, Any] = {"flags": 8, "local_flags": 8, "local_sizes": (0, 0, 0)}
    assert files_in(one(**later)) == {"a": b"content"}


def test_content_that_differs_from_what_is_said() -> None:
    for lie, said in (
        ({"size": 6}, "more content"),
        ({"size": 8}, "less content"),
        ({"crc": 1}, "checksum"),
        ({"packed": b"\xff\xff\xff"}, "invalid"),
        ({"packed": zlib.compress(b"content", wbits=-15) + b"x"}, "invalid"),
        ({"packed": zlib.compress(b"content", wbits=-15)[:-1]}, "truncated"),
        ({"method": 0, "packed": b"conten"}, "less content"),
        ({"method": 0, "packed": b"content and more"}, "more content"),
    ):
        with pytest.raises(InvalidRequest, match=rf"'a'.*{said}"):
            files_in(one(**lie))


def test_a_size_that_is_not_true_is_not_written() -> None:
    """A directory that says less than there is: not one byte more comes out."""
    written = bytearray()
    from . import unpack

    with pytest.raises(InvalidRequest, match=r"more content"):
        unpack(one(content=bytes(4 * MIB), size=1000), write=written.extend)
    assert len(written) < 200 * 1024


def test_attributes_of_dos() -> None:
    """A folder need not have a slash, and what stands above is no mode of Unix."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, attributes in (("d", 0x10), ("a", 0o100755 << 16 | 0x20)):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 0, attributes
            archive.writestr(info, b"")
    _, stored = unpack(out.getvalue())
    assert [(name, oct(mode)) for name, mode, _ in entries(stored)] == [
        ("d", "0o40755"),
        ("a", "0o100644"),
    ]


def test_encrypted_entries() -> None:
    for flag in (1, 1 << 6, 1 << 13):
        with pytest.raises(InvalidRequest, match=r"'a'.*encrypted"):
            files_in(one(flags=flag))


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99])
def test_methods(method: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"'a'.*method {method}"):
        files_in(one(method=method))


def test_a_folder_with_content() -> None:
    with pytest.raises(InvalidRequest, match=r"'sub'.*content"):
        files_in(one(b"sub/"))
    with pytest.raises(InvalidRequest, match=r"'sub'.*content"):
        files_in(one(b"sub/", size=0))


def test_entries_that_overlap() -> None:
    """The largest bombs: many entries with the same compressed content."""
    raw = RawZip()
    raw.add(b"a", b"content")
    raw.add(b"a", b"content", at=0, local=False)
    with pytest.raises(InvalidRequest, match=r"overlap"):
        files_in(raw.end())
    raw = RawZip()
    raw.add(b"a", b"content", method=0, packed=b"", packed_size=7, local_extra=b"?" * 41)
    raw.add(b"b", b"content")  # lies in what comes before the content of the first
    with pytest.raises(InvalidRequest, match=r"overlap"):
        files_in(raw.end())
    raw = RawZip()
    raw.add(b"a", b"content", packed_size=200)  # reaches into the next
    raw.add(b"b", b"x" * 1000, method=0)
    with pytest.raises(InvalidRequest, match=r"overlap"):
        files_in(raw.end())
    raw = RawZip()
    raw.add(b"a", b"content", packed_size=20)  # reaches into the directory
    with pytest.raises(InvalidRequest, match=r"overlap"):
        files_in(raw.end())


def test_a_bomb_is_refused_by_what_it_says() -> None:
    """Nothing of it is decompressed."""
    written: list[bytes] = []
    from . import unpack

    bomb = zip_of([("a", b"fine"), ("b", bytes(7 * MIB))])
    with pytest.raises(TooLarge, match=r"max_ratio"):
        unpack(bomb, write=written.append)
    assert written == []


def test_the_ratio_at_its_edge() -> None:
    archive = zip_of([("a", bytes(3 * MIB))])
    enough = 2 * MIB // len(archive) + 1
    assert files_in(archive, Bounds(10, 8 * MIB, enough))
    with pytest.raises(TooLarge, match=r"max_ratio"):
        files_in(archive, Bounds(10, 8 * MIB, enough - 1))


def test_a_million_entries_are_refused_by_their_number() -> None:
    raw = RawZip()
    raw.add(b"a")
    with pytest.raises(TooLarge, match=r"60000 entries"):
        files_in(raw.end(count=60_000))


def test_a_directory_that_lies_about_itself() -> None:
    raw = RawZip()
    raw.add(b"a", b"content")
    lies: list[dict[str, Any]] = [
        {"count": 2},
        {"count": 0},
        {"size": 10},
        {"at": 3},
        {"size": LARGE},
    ]
    for lie in lies:
        with pytest.raises(InvalidRequest, match=r"damaged"):
            files_in(raw.end(**lie))
    with pytest.raises(InvalidRequest, match=r"one part of several"):
        files_in(raw.end(disk=1))


def test_something_before_and_after_the_archive() -> None:
    whole = one()
    with pytest.raises(InvalidRequest, match=r"neither"):
        files_in(b"#!/bin/sh\n" + whole)
    with pytest.raises(InvalidRequest, match=r"damaged"):
        files_in(b"PK\3\4" + whole)
    with pytest.raises(InvalidRequest, match=r"truncated"):
        files_in(whole + b"x")
    raw = RawZip()
    raw.add(b"a", b"content")
    assert files_in(raw.end(comment=b"hello")) == {"a": b"content"}
    # A second end in the comment of the first.
    assert files_in(raw.end(comment=RawZip().end()[:-1])) == {"a": b"content"}


def test_an_entry_without_its_header() -> None:
    raw = RawZip()
    raw.add(b"first")
    place = len(raw.body)
    raw.body += bytes(100)
    raw.add(b"a", at=place, local=False)
    with pytest.raises(InvalidRequest, match=r"'a'.*header is missing"):
        files_in(raw.end())


def test_a_large_size_without_its_number() -> None:
    with pytest.raises(InvalidRequest, match=r"'a'.*size is missing"):
        files_in(one(size=LARGE))
    with pytest.raises(InvalidRequest, match=r"'a'.*size is missing"):
        files_in(one(size=LARGE, extra=struct.pack("<HHL", 1, 4, 7)))


def test_a_quine() -> None:
    """An archive that contains itself for ever is a file in an archive."""
    inner = zip_of([("a", b"1")])
    for _ in range(3):
        outer = zip_of([("r.zip", inner)])
        assert files_in(outer, BOUNDS) == {"r.zip": inner}
        inner = outer

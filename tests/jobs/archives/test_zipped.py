"""Archives that are written piece by piece, read by Python's own reader and by unzip(1)."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import pytest

from streamer.engine.blobs import Blob, JobFile
from streamer.jobs.archives.zipped import archive_bytes, end_of, header_of

MADE_AT = 1_700_000_001.0
GIB = 1024**3


def file_of(name: str, data: bytes) -> JobFile:
    return JobFile(name, Blob("0", len(data), ""), zlib.crc32(data))


def written(files: list[JobFile], contents: list[bytes]) -> bytes:
    whole = b"".join(
        header_of(file, MADE_AT) + data for file, data in zip(files, contents, strict=True)
    )
    return whole + end_of(files, MADE_AT)


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"a.txt": b"hello"},
        {"a/b/c.bin": bytes(70_000), "empty": b"", "name\nof\tany kind": b"x", "größe/日本": b"y"},
        {f"d/{number}": b"%d" % number for number in range(300)},
    ],
)
def test_an_archive_has_all_files(contents: dict[str, bytes]) -> None:
    files = [file_of(name, data) for name, data in contents.items()]
    data = written(files, list(contents.values()))
    assert len(data) == archive_bytes(files, MADE_AT)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {info.filename: archive.read(info) for info in archive.infolist()} == contents
        for info in archive.infolist():
            assert info.date_time == (2023, 11, 14, 22, 13, 20)
            assert info.external_attr >> 16 == 0o100644


def test_more_files_than_the_old_format_counts() -> None:
    files = [file_of(f"{number}", b"") for number in range(65_536)]
    data = written(files, [b""] * len(files))
    assert len(data) == archive_bytes(files, MADE_AT)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.infolist()) == len(files)
        assert archive.read("65535") == b""


def write_sparse(out: BinaryIO, files: list[JobFile]) -> None:
    for file in files:
        out.write(header_of(file, MADE_AT))
        out.seek(file.blob.bytes, os.SEEK_CUR)
    out.write(end_of(files, MADE_AT))


@pytest.mark.parametrize("size", [4 * GIB - 2, 4 * GIB - 1, 5 * GIB])
def test_large_files(tmp_path: Path, size: int) -> None:
    """The file is sparse: only what is around the bytes of its members is really there."""
    files = [
        JobFile("small", Blob("0", 3, ""), zlib.crc32(b"\0\0\0")),
        JobFile("large", Blob("0", size, ""), 0),
        JobFile("large again", Blob("0", size + 1, ""), 0),
        JobFile("behind", Blob("0", 2, ""), zlib.crc32(b"\0\0")),
    ]
    path = tmp_path / "large.zip"
    with path.open("wb") as out:
        write_sparse(out, files)
    assert path.stat().st_size == archive_bytes(files, MADE_AT)
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: (info.file_size, info.compress_size) for info in archive.infolist()}
        assert sizes == {file.name: (file.blob.bytes,) * 2 for file in files}
        assert archive.read("behind") == b"\0\0"
        for name in ("large", "large again"):
            with archive.open(name) as member:
                assert member.read(2) == b"\0\0"


@pytest.mark.parametrize("made_at", [0.0, 9e9])
def test_times_that_the_format_does_not_have(made_at: float) -> None:
    file = file_of("a", b"")
    data = header_of(file, made_at) + end_of([file], made_at)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.getinfo("a").date_time[0] in (1980, 2107)

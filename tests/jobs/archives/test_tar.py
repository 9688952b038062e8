"""Tar archives: their dialects, and what must not be in them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import Bounds

from . import BOUNDS, MIB, files_in, member, packed, raw_header, tar_of

END = bytes(1024)
LONG = "/".join(["d" * 90] * 3) + "/file"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_dialects(form: int) -> None:
    name = LONG if form != tarfile.USTAR_FORMAT else "d" * 99 + "/" + "e" * 99
    assert files_in(tar_of([(name, b"1"), ("b", b"2")], form)) == {name: b"1", "b": b"2"}


@pytest.mark.parametrize("flags", [("-z",), ("--zstd",), ("--format=v7",), ("--format=gnu",)])
def test_what_tar_writes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    if "--zstd" in flags and shutil.which("zstd") is None:
        pytest.skip("there is no zstd")
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "sub" / "a.py").write_text("print(1)\n")
    (folder / "b").write_bytes(bytes(5000))
    archive = subprocess.run(
        ["tar", *flags, "-cf", "-", "-C", folder, "."], check=True, capture_output=True
    ).stdout
    assert files_in(archive) == {"sub/a.py": b"print(1)\n", "b": bytes(5000)}


def test_the_header_that_git_writes_is_skipped() -> None:
    record = b"52 comment=0123456789012345678901234567890123456789\n"
    pax = raw_header(b"pax_global_header", b"%011o\0" % len(record), b"g")
    archive = pax + record + bytes(512 - len(record)) + tar_of([("a", b"1")])
    assert files_in(archive) == {"a": b"1"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "FIFO"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
        (b"D", "type 'D' is unknown"),
        (b"Z", "type 'Z' is unknown"),
    ],
)
def test_what_is_neither_file_nor_folder(kind: bytes, said: str) -> None:
    archive = raw_header(b"sub/evil", b"00000000000\0", kind) + END
    with pytest.raises(InvalidRequest, match=rf"'sub/evil'.*{said}"):
        files_in(archive)


def test_a_sparse_file_of_pax() -> None:
    info = member("sparse", pax_headers={"GNU.sparse.realsize": "1000000000000"})
    with pytest.raises(InvalidRequest, match=r"'sparse'.*sparse file"):
        files_in(tar_of([info]))


@pytest.mark.parametrize("name", [b"a\0b", b"a\xff"])
def test_names_only_an_extended_header_can_have(name: bytes) -> None:
    record = b" path=" + name + b"\n"
    record = b"%d" % (len(record) + 2) + record
    pax = raw_header(b"pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")
    with pytest.raises(InvalidRequest, match=r"NUL|UTF-8"):
        files_in(pax + raw_header(b"a", b"00000000000\0") + END)


def test_a_name_is_that_of_the_extended_header() -> None:
    info = member("fine", pax_headers={"path": "../evil"})
    with pytest.raises(InvalidRequest, match=r"'\.\./evil'"):
        files_in(tar_of([info]))


@pytest.mark.parametrize(
    "size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7]
)
def test_a_size_that_is_not_true(size: bytes) -> None:
    with pytest.raises(TooLarge, match=r"'huge'"):
        files_in(raw_header(b"huge", size) + bytes(512) + END)
    with pytest.raises(InvalidRequest, match=r"truncated"):
        files_in(raw_header(b"huge", b"00000010000\0") + bytes(512))


@pytest.mark.parametrize("size", [b"\xff" * 12, b"-0000000001\0", b"0x10\0", b"1 1\0", b"9\0"])
def test_a_size_that_is_no_number(size: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"damaged"):
        files_in(raw_header(b"x", size) + END)


@pytest.mark.parametrize("said", ["-1", "1e3", "9" * 30, "", "٣"])
def test_a_size_of_pax_that_is_no_number(said: str) -> None:
    info = member("x", pax_headers={"size": said})
    with pytest.raises((InvalidRequest, TooLarge), match=r"'x'|damaged"):
        files_in(tar_of([info]))


def test_an_extended_header_is_not_read_into_memory() -> None:
    for kind in (b"x", b"g", b"L", b"K"):
        with pytest.raises(InvalidRequest, match=r"extended headers that are too large"):
            files_in(raw_header(b"pax", b"00010000000\0", kind) + bytes(4 * MIB) + END)


def test_extended_headers_without_end() -> None:
    one = raw_header(b"pax", b"00000000000\0", b"x")
    assert files_in(one * 8 + tar_of([("a", b"")])) == {"a": b""}
    with pytest.raises(InvalidRequest, match=r"extended headers"):
        files_in(one * 9 + tar_of([("a", b"")]))


@pytest.mark.parametrize(
    "record", [b"0 path=x\n", b"999 path=x\n", b"9 path=x ", b"7 path\n", b"path=x\n", b"3 \n"]
)
def test_an_extended_header_that_is_damaged(record: bytes) -> None:
    pax = raw_header(b"pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")
    with pytest.raises(InvalidRequest, match=r"damaged"):
        files_in(pax + raw_header(b"a", b"00000000000\0") + END)


@pytest.mark.parametrize("key", ["path", "size"])
def test_a_name_for_all_entries(key: str) -> None:
    record = b" %s=1\n" % key.encode()
    record = (
        b"%d" % (len(record) + 2) + record
        if len(record) > 7
        else b"%d" % (len(record) + 1) + record
    )
    pax = raw_header(b"pax", b"%011o\0" % len(record), b"g") + record.ljust(512, b"\0")
    with pytest.raises(InvalidRequest, match=r"all its entries|damaged"):
        files_in(pax + tar_of([("a", b"")]))


def test_a_folder_with_content() -> None:
    archive = raw_header(b"folder", b"00000001000\0", b"5") + bytes(512) + END
    with pytest.raises(InvalidRequest, match=r"'folder'.*content"):
        files_in(archive)


def test_data_after_the_end() -> None:
    whole = tar_of([("a", b"1")])
    with pytest.raises(InvalidRequest, match=r"after its end"):
        files_in(whole + tar_of([("b", b"2")]))
    with pytest.raises(InvalidRequest, match=r"after its end"):
        files_in(packed("gz", whole) + packed("gz", tar_of([("b", b"2")])))


def test_an_archive_without_an_end() -> None:
    with pytest.raises(InvalidRequest, match=r"truncated"):
        files_in(raw_header(b"a", b"00000000000\0"))


def test_a_wrong_checksum() -> None:
    archive = bytearray(tar_of([("a", b"1"), ("b", b"2")]))
    archive[1024] ^= 1
    with pytest.raises(InvalidRequest, match=r"checksum"):
        files_in(bytes(archive))


# -- compressed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_several_members_are_one_archive(kind: str) -> None:
    whole = tar_of([("a", bytes(5000))])
    archive = b"".join(packed(kind, whole[at : at + 700]) for at in range(0, len(whole), 700))
    assert files_in(archive) == {"a": bytes(5000)}


def test_a_frame_to_skip_before_the_others() -> None:
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    assert files_in(skipped + packed("zst", tar_of([("a", b"1")]))) == {"a": b"1"}


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_bomb_in_one_file(kind: str) -> None:
    """A file that is within the bounds, but not the bytes after it."""
    bomb = packed(kind, tar_of([("a", bytes(7 * MIB))]))
    assert len(bomb) < MIB // 100
    with pytest.raises(TooLarge, match=r"max_ratio"):
        files_in(bomb)
    bomb = packed(kind, tar_of([("a", b"")]) + bytes(64 * MIB))
    with pytest.raises(TooLarge, match=r"max_ratio"):
        files_in(bomb)


def test_the_ratio_at_its_edge() -> None:
    tar = tar_of([("a", bytes(3 * MIB))])
    archive = packed("gz", tar)
    enough = (len(tar) - MIB) // len(archive) + 1
    assert files_in(archive, Bounds(10, 8 * MIB, enough))
    with pytest.raises(TooLarge, match=r"max_ratio"):
        files_in(archive, Bounds(10, 8 * MIB, enough - 1))


def test_padding_after_gzip() -> None:
    archive = packed("gz", tar_of([("a", b"1")]))
    assert files_in(archive + bytes(1000)) == {"a": b"1"}
    with pytest.raises(InvalidRequest, match=r"gzip"):
        files_in(archive + b"rubbish")


def test_a_window_that_takes_much_memory() -> None:
    import zstandard

    tar = tar_of([("a", b"x" * 1000)])
    for log, fits in ((23, True), (24, False)):
        parameters = zstandard.ZstdCompressionParameters(window_log=log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        archive = compressor.compress(tar) + compressor.flush()  # its size is not in the header
        if fits:
            assert files_in(archive) == {"a": b"x" * 1000}
        else:
            with pytest.raises(InvalidRequest, match=r"window"):
                files_in(archive)


def test_a_quine() -> None:
    """An archive that contains itself for ever is a file in an archive."""
    inner = packed("gz", tar_of([("a", b"1")]))
    for _ in range(3):
        outer = packed("gz", tar_of([("r.tar.gz", inner)]))
        assert files_in(outer, BOUNDS) == {"r.tar.gz": inner}
        inner = outer

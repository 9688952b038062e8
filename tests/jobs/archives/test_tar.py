"""Tar archives: their dialects, and what must not be in them."""

from __future__ import annotations

import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import Bounds

from . import BOUNDS, MIB, entries, files_in, member, packed, raw_header, tar_of, unpack

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


@pytest.mark.parametrize("key", ["GNU.sparse.realsize", "SCHILY.realsize", "SUN.holesdata"])
def test_a_sparse_file_of_pax(key: str) -> None:
    """Its content is not what is in the archive."""
    info = member("sparse", pax_headers={key: "1000000000000"})
    with pytest.raises(InvalidRequest, match=r"'sparse'.*sparse file"):
        files_in(tar_of([info]))


def test_a_sparse_file_has_the_name_that_it_had() -> None:
    said = {"GNU.sparse.major": "1", "GNU.sparse.name": "sub/holes"}
    info = member("sub/GNUSparseFile.7/holes", pax_headers=said)
    with pytest.raises(InvalidRequest, match=r"'sub/holes'.*without --sparse"):
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


def test_extended_headers_together() -> None:
    """A megabyte of gzip could have gigabytes of them."""
    record = b"65536 comment=".ljust(65535, b"x") + b"\n"
    most = (raw_header(b"pax", b"00000200000\0", b"x") + record) * 8
    one, two = (raw_header(name, b"00000000000\0") for name in (b"a", b"b"))
    assert files_in(most + one + two + END) == {"a": b"", "b": b""}
    with pytest.raises(InvalidRequest, match=r"extended headers that are too large"):
        files_in(most + one + most + two + END)


def test_extended_headers_of_many_entries() -> None:
    headers = {"comment": "x" * 3000}
    infos = [member(str(n), pax_headers=headers) for n in range(300)]
    assert len(files_in(tar_of(infos), Bounds(300, MIB, 100))) == 300


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


def test_a_folder_of_before_posix() -> None:
    _, stored = unpack(raw_header(b"d/", b"00000000000\0", b"\0") + tar_of([("d/a", b"1")]))
    assert [(name, oct(mode)) for name, mode, _ in entries(stored)] == [
        ("d", "0o40755"),
        ("d/a", "0o100644"),
    ]


def test_what_gnu_has_in_the_place_of_the_prefix_is_no_name() -> None:
    block = bytearray(raw_header(b"a", b"00000000000\0"))
    block[257:265] = b"ustar  \0"
    block[345:357] = b"14312345670\0"  # when it was last read
    assert files_in(with_sum(block) + END) == {"a": b""}


def test_a_checksum_of_signed_bytes() -> None:
    block = bytearray(raw_header("\u00e4".encode(), b"00000000000\0"))
    assert files_in(with_sum(block, signed=True) + END) == {"\u00e4": b""}


def with_sum(block: bytearray, *, signed: bool = False) -> bytes:
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


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


def test_empty_members_of_gzip_have_a_bound() -> None:
    archive, empty = tar_of([("a", bytes(MIB))]), packed("gz", b"")
    pieces = [archive[at : at + 4096] for at in range(0, len(archive), 4096)]
    many = b"".join(packed("gz", piece) + empty * 3 for piece in pieces)
    assert len(files_in(empty * 1000 + many)) == 1
    with pytest.raises(InvalidRequest, match="members"):
        unpack(empty * 1024 + packed("gz", archive))


def test_zeros_behind_an_archive_have_a_bound() -> None:
    """Their ratio is allowed: there is something in it that cannot be compressed."""
    noise = tar_of([("a", random.Random(1).randbytes(200_000))])
    bounds = Bounds(entries=10, total=2 * MIB, ratio=100)
    upload = packed("gz", noise + bytes(2 * MIB))
    assert unpack(upload, bounds)[0].files == 1
    for more in (4 * MIB, 100 * MIB):
        upload = packed("gz", noise + bytes(more))
        with pytest.raises(TooLarge, match=r"decompressed \(projects\.max_bytes"):
            unpack(upload, bounds)


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_file_that_is_compressed_without_tar(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="compressed is no tar archive"):
        files_in(packed(kind, b"print(1)\n" * 100))


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

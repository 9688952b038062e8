"""What holds for uploads of every kind: the same files come out, and the same is refused."""

from __future__ import annotations

import resource
import threading
import unicodedata
from collections.abc import Callable

import pytest

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import Bounds, Interrupted
from streamer.model.filenames import MAX_NAME_BYTES

from . import (
    BOUNDS,
    MIB,
    Files,
    entries,
    files_in,
    form_of,
    member,
    packed,
    raw_header,
    tar_of,
    unpack,
    zip_of,
    zipped,
)

FORM = b"xyz"


def as_form(files: list[tuple[str, bytes]]) -> bytes:
    return form_of([(b'name="f"; filename="%s"' % name.encode(), data) for name, data in files])


MAKERS: dict[str, Callable[[list[tuple[str, bytes]]], bytes]] = {
    "tar": tar_of,
    "tar.gz": lambda files: packed("gz", tar_of(files)),
    "tar.zst": lambda files: packed("zst", tar_of(files)),
    "zip": zip_of,
    "form": as_form,
}

Make = Callable[[list[tuple[str, bytes]]], Files]


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def read(kind: str, files: list[tuple[str, bytes]], bounds: Bounds = BOUNDS) -> Files:
    return files_in(MAKERS[kind](files), bounds, FORM if kind == "form" else None)


def test_all_names_together_have_a_bound(kind: str) -> None:
    """Each answer about a project has all of them, a control character by six characters."""
    bounds = Bounds(entries=100, total=MIB, ratio=1000)
    deep = "/".join(["d" * 240] * 3)
    for name, most in ((f"{deep}/{'é' * 110}", 94), ("\x01" * 200, 75)):
        many = [(f"{name}{n:02}", b"") for n in range(97)]
        assert len(read(kind, many[:most], bounds)) == most
        with pytest.raises(TooLarge, match=r"names of a project.*projects\.max_files"):
            read(kind, many, bounds)


def test_files_come_out_as_they_were(kind: str) -> None:
    long = "/".join(["d" * 100] * 4) + "/file.py"
    files = {
        "main.py": b"print(1)\n",
        "src/ä/日本.py": b"\r\n--xy\r\n\0",
        "empty": b"",
        "large": bytes(range(256)) * 2000,
        long: b"x",
    }
    assert read(kind, list(files.items())) == files


def test_a_folder_comes_before_what_it_contains(kind: str) -> None:
    upload = MAKERS[kind]([("a/b/1", b""), ("a/c/2", b""), ("a/b/3", b""), ("4", b"")])
    counts, stored = unpack(upload, boundary=FORM if kind == "form" else None)
    assert [(name, oct(mode)) for name, mode, _ in entries(stored)] == [
        ("a", "0o40755"),
        ("a/b", "0o40755"),
        ("a/b/1", "0o100644"),
        ("a/c", "0o40755"),
        ("a/c/2", "0o100644"),
        ("a/b/3", "0o100644"),
        ("4", "0o100644"),
    ]
    assert (counts.files, counts.bytes) == (4, 0)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "./../x",
        "a//x",
        "a/./x",
        "..",
        ".",
        "C:\\x",
        "..\\x",
        "/",
        "x" * 256,
        "x/" * 64 + "y",
        "/".join(["x" * 200] * 6),
    ],
)
def test_names_that_are_refused(kind: str, name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(kind, [("fine", b""), (name, b"")])
    shown = name if len(name) < 100 else name[:60]
    assert repr(shown)[1:-1].removeprefix("./") in refusal.value.message


def test_a_name_that_begins_with_the_folder_itself(kind: str) -> None:
    assert read(kind, [("./a", b"1"), ("././b/c", b"2")]) == {"a": b"1", "b/c": b"2"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a", "./a"),
        ("README", "readme"),
        ("straße", "STRASSE"),
        (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "É")),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a/b", "A"),
        ("A", "a/b"),
        ("src/1", "SRC/2"),
        ("x/src/1", "x/Src/y/2"),
    ],
)
def test_names_that_clash(kind: str, first: str, second: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"entry '.*' has the same name|only in case|is a file"
    ):
        read(kind, [(first, b""), (second, b"")])


def test_the_number_of_files_and_folders(kind: str) -> None:
    bounds = Bounds(entries=5, total=MIB, ratio=1000)
    files = [("a/b/1", b""), ("a/b/2", b""), ("3", b"")]
    assert len(read(kind, files, bounds)) == 3
    for more in ("4", "c/4"):
        with pytest.raises(TooLarge, match=rf"{more}.*max_files"):
            read(kind, [*files, (more, b"")], bounds)


@pytest.mark.parametrize("name", ["a/", "./"])
def test_a_folder_that_is_named_again_and_again(name: str) -> None:
    """Nothing of it is kept, so nothing else counts it."""
    bounds = Bounds(entries=5, total=MIB, ratio=1000)
    folder = raw_header(name.encode(), b"00000000000\0", b"5")
    one = tar_of([("a/1", b"")])
    assert files_in(folder * 5 + one, bounds) == {"a/1": b""}
    with pytest.raises(TooLarge, match=r"max_files"):
        files_in(folder * 7 + one, bounds)


def test_the_bytes_of_all_files(kind: str) -> None:
    bounds = Bounds(entries=5, total=10, ratio=1000)
    assert read(kind, [("a", b"12345"), ("b", b"12345")], bounds)
    with pytest.raises(TooLarge, match=r"'b'.*max_bytes"):
        read(kind, [("a", b"12345"), ("b", b"123456")], bounds)


def test_an_upload_without_files(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=r"no files"):
        read(kind, [])


@pytest.mark.parametrize("cut", [1, 0.2, 0.5, 0.9, -8])
def test_a_truncated_upload(kind: str, cut: float) -> None:
    upload = MAKERS[kind]([("a", bytes(range(256)) * 40), ("b", b"x" * 3000)])
    if kind.startswith("tar"):
        upload = packed(kind[4:], MAKERS["tar"]([("a", bytes(range(256)) * 40)])[: 20 * 512 + 512])
    with pytest.raises(InvalidRequest):
        files_in(
            upload[: int(cut * len(upload)) if 0 < cut < 1 else int(cut)],
            boundary=FORM if kind == "form" else None,
        )


def test_a_damaged_upload_never_fails_otherwise(kind: str) -> None:
    """Whatever bytes are wrong, it is refused, or its files are within the bounds."""
    upload = MAKERS[kind]([("a/b", bytes(range(256)) * 4), ("c", b"x" * 600)])
    for at in range(0, len(upload), max(len(upload) // 300, 1)):
        for value in (0, 1, 0x7F, 0xFF):
            damaged = bytearray(upload)
            damaged[at] ^= value or 0x80
            try:
                found = files_in(bytes(damaged), boundary=FORM if kind == "form" else None)
            except (InvalidRequest, TooLarge):
                continue
            assert all(not name.startswith("/") and ".." not in name for name in found)


def test_what_is_no_archive() -> None:
    for upload in (b"", b"x", b"print(1)\n" * 100, b"PK", b"7z\xbc\xaf\x27\x1c" + bytes(600)):
        with pytest.raises(InvalidRequest, match=r"neither"):
            files_in(upload)


def test_it_is_interrupted_while_it_reads(kind: str) -> None:
    stop = threading.Event()
    written: list[bytes] = []

    def write(data: bytes) -> None:
        written.append(data)
        stop.set()

    upload = MAKERS[kind]([("a", bytes(MIB)), ("b", b"")])
    with pytest.raises(Interrupted):
        unpack(
            upload,
            Bounds(entries=5, total=2 * MIB, ratio=2000),
            boundary=FORM if kind == "form" else None,
            stop=stop,
            write=write,
        )
    assert len(written) == 1


def test_the_execute_bit_is_all_that_is_kept_of_a_mode() -> None:
    modes = {"run": 0o100711, "data": 0o100666, "suid": 0o104755, "bare": 0o100000}
    tar = tar_of([member(name, mode=mode & 0o7777) for name, mode in modes.items()])
    zipped_up = zip_of([(zipped(name, mode), b"") for name, mode in modes.items()])
    for upload in (tar, zipped_up):
        found = {name: oct(mode) for name, mode, _ in entries(unpack(upload)[1])}
        assert found == {
            "run": "0o100755",
            "data": "0o100644",
            "suid": "0o100755",
            "bare": "0o100644",
        }


def test_an_archive_in_an_archive_is_a_file() -> None:
    inner = zip_of([("x", bytes(MIB))])
    assert files_in(zip_of([("inner.zip", inner)])) == {"inner.zip": inner}


def test_memory_stays_flat_for_names_and_content() -> None:
    """20,000 long names and 64 MiB: what is kept of a name is a digest."""
    names = [(f"{'d' * 200}/{'e' * 200}/{n:06}{'x' * 200}", b"") for n in range(5000)]
    upload = tar_of([*names, ("large", bytes(64 * MIB))])
    bounds = Bounds(entries=13_000, total=128 * MIB, ratio=10)
    sizes = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unpack(upload, bounds, write=lambda data: sizes.append(len(data)))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16 * 1024  # KiB
    assert max(sizes) <= 128 * 1024


def test_a_name_as_long_as_one_may_be(kind: str) -> None:
    name = "/".join(["x" * 204] * 5)
    assert len(name) == MAX_NAME_BYTES
    assert read(kind, [(name, b"1")]) == {name: b"1"}
    with pytest.raises(InvalidRequest, match=r"1024 bytes"):
        read(kind, [(f"{name}x", b"1")])

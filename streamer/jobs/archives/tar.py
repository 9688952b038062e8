"""Read a tar archive as a stream: ustar, pax and GNU's long names.

Python's tarfile reads extended headers into memory whatever their size, and understands far more
than a project needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from streamer.errors import InvalidRequest
from streamer.jobs.archives.entries import (
    CHUNK_BYTES,
    SHOWN_BYTES,
    Entry,
    Stream,
    refused,
    text_of,
)

__all__ = ["is_tar", "read_tar"]

BLOCK: Final = 512
ZEROS: Final = bytes(BLOCK)
MAX_EXTENDED_BYTES: Final = 64 * 1024
"""Of one extended header; a name has at most 1024 bytes."""
MAX_EXTENDED_IN_A_ROW: Final = 8
EXTENDED_OF_AN_ENTRY: Final = 4096
"""In the mean, besides the first ones: they may be much when they are decompressed."""

FILES: Final = frozenset(b"0\x007")
FOLDER: Final = ord("5")
PAX: Final = ord("x")
PAX_FOR_ALL: Final = ord("g")
LONG_NAME: Final = ord("L")
LONG_LINK: Final = ord("K")
SPARSE: Final = ord("S")
HOLES: Final = ("GNU.sparse.", "SUN.holesdata", "SCHILY.realsize")
"""Keys that say so of a file: what is in the archive is not its content."""
LINKS: Final = {ord("1"): "a hard link", ord("2"): "a symbolic link"}
AS_FILES: Final = "tar's options -h and --hard-dereference put the files themselves there"
REFUSED: Final = {
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a FIFO",
}
OCTAL: Final = re.compile(rb" *([0-7]*)[ \0]*")
RECORD: Final = re.compile(rb"([1-9][0-9]{0,5}) ")


def is_tar(block: bytes) -> bool:
    """Tell whether a file that begins so is a tar archive, an empty one included."""
    return len(block) == BLOCK and (block == ZEROS or _sum_is_right(block))


def read_tar(stream: Stream) -> Iterator[Entry]:
    """Yield the entries of an archive. Raises `InvalidRequest`."""
    reader = _Reader(stream)
    said: dict[str, bytes] = {}
    in_a_row = 0
    room = MAX_EXTENDED_IN_A_ROW * MAX_EXTENDED_BYTES
    while (header := reader.block()) != ZEROS:
        if not _sum_is_right(header):
            raise InvalidRequest(
                "what is compressed is no tar archive"
                if reader.blocks == 1
                else "the archive is damaged: a header has the wrong checksum"
            )
        kind, size = header[156], _number(header[124:136])
        if kind in (PAX, PAX_FOR_ALL, LONG_NAME, LONG_LINK):
            in_a_row += 1
            room -= size
            if in_a_row > MAX_EXTENDED_IN_A_ROW or size > MAX_EXTENDED_BYTES or room < 0:
                raise InvalidRequest(
                    "the archive has extended headers that are too large: make it without extended "
                    "attributes (--no-xattrs)"
                )
            data = reader.exactly(size)
            reader.skip_padding(size)
            said |= _extended(kind, data)
            continue
        yield _entry(reader, header, said, kind, size)
        said, in_a_row = {}, 0
        room += EXTENDED_OF_AN_ENTRY
    reader.check_end()


class _Reader:
    """Blocks of a stream; a short one is an error."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        """How much of the buffer was returned."""
        self.blocks = 0
        """How many headers were read."""

    def block(self) -> bytes:
        self.blocks += 1
        return self.exactly(BLOCK)

    def exactly(self, size: int) -> bytes:
        parts = []
        while size:
            parts.append(self.some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def some(self, size: int) -> bytes:
        """Return from 1 to `size` bytes."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._stream.read(CHUNK_BYTES), 0
            if not self._buffer:
                raise InvalidRequest("the archive is truncated: its end is missing")
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def skip_padding(self, size: int) -> None:
        self.exactly(-size % BLOCK)

    def content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            data = self.some(min(left, CHUNK_BYTES))
            left -= len(data)
            yield data
        self.skip_padding(size)

    def check_end(self) -> None:
        """Check that nothing but zeros follows: others might read another archive there."""
        data = self._buffer[self._at :]
        while data:
            if data.strip(b"\0"):
                raise InvalidRequest("the archive has data after its end")
            data = self._stream.read(CHUNK_BYTES)


def _entry(reader: _Reader, header: bytes, said: dict[str, bytes], kind: int, size: int) -> Entry:
    raw = said.get("path", _own_name(header))
    name = text_of(raw)
    if kind in LINKS:
        raise refused(name, f"{LINKS[kind]}: only regular files and folders are taken ({AS_FILES})")
    if kind in REFUSED:
        raise refused(name, f"{REFUSED[kind]}: only regular files and folders are taken")
    if kind == SPARSE or any(key.startswith(HOLES) for key in said):
        # The name in the header is that of a part, such as dir/GNUSparseFile.123/name.
        name = text_of(said.get("GNU.sparse.name", raw))
        raise refused(name, "a sparse file: make the archive without --sparse")
    if kind not in FILES and kind != FOLDER:
        raise refused(name, f"its type {chr(kind)!r} is unknown")
    if "size" in said:
        if not said["size"].isdigit() or len(said["size"]) > 19:
            raise refused(name, "its size is invalid")
        size = int(said["size"])
    # Before POSIX a slash at the end of the name told a folder.
    folder = kind == FOLDER or raw.endswith(b"/")
    if folder and size:
        raise refused(name, "a folder with content")
    executable = bool(_number(header[100:108]) & 0o111)
    return Entry(name, size, reader.content(size), folder=folder, executable=executable)


def _own_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _extended(kind: int, data: bytes) -> dict[str, bytes]:
    """Return what an extended header says of the next entry; links are refused anyway."""
    if kind == LONG_NAME:
        return {"path": data.removesuffix(b"\0")}
    if kind == LONG_LINK:
        return {}
    said: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        match = RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        record = data[match.end() : end] if match else b""
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if end > len(data) or not record.endswith(b"\n") or not equals:
            raise InvalidRequest("the archive is damaged: an extended header is invalid")
        said[key[:SHOWN_BYTES].decode("utf-8", "replace")] = value
        at = end
    if kind == PAX_FOR_ALL:
        # git writes the commit here. A name or size for all entries would be for none.
        if said.keys() & {"path", "size"}:
            raise InvalidRequest("the archive gives all its entries one name or size")
        return {}
    return said


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU, for large numbers
        return int.from_bytes(field[1:])
    match = OCTAL.fullmatch(field)
    if match is None:
        raise InvalidRequest("the archive is damaged: a number in a header is invalid")
    return int(match[1] or b"0", 8)


def _sum_is_right(block: bytes) -> bool:
    match = OCTAL.fullmatch(block[148:156])
    if match is None or not match[1]:
        return False
    # The field counts as spaces; some old programs took the bytes for signed ones.
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    high = sum(byte > 127 for byte in block[:148] + block[156:])
    return int(match[1], 8) in (total, total - 256 * high)

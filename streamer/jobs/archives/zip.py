"""Read a zip archive by its central directory.

Python's zipfile keeps every entry of the directory in memory, and takes entries that overlap, which
make the largest bombs. Where local header and directory differ, programs disagree about what is in
the archive: so that is refused.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from streamer.errors import InvalidRequest, TooLarge
from streamer.jobs.archives.entries import (
    CHUNK_BYTES,
    RATIO_SLACK,
    Bounds,
    Entry,
    Source,
    refused,
    text_of,
)

__all__ = ["read_zip"]

END: Final = struct.Struct("<4s4H2LH")
END_64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64: Final = struct.Struct("<4sLQL")
CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
LOCAL: Final = struct.Struct("<4s5H3L2H")

MAX_COMMENT_BYTES: Final = 2**16 - 1
LARGE: Final = 2**32 - 1
"""A number that is in the extra field instead."""
MOST_32: Final = (2**16 - 1, 2**16 - 1, LARGE, LARGE)
EXTRA_64: Final = 1
SIZES_LATER: Final = 1 << 3
"""They are behind the content, as its writer did not know them before."""
ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
STORED: Final = 0
DEFLATED: Final = 8
DOS_FOLDER: Final = 0x10
UNIX_SYSTEMS: Final = frozenset({3, 19})

KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class _Listed:
    """An entry of the central directory."""

    raw: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    folder: bool
    at: int
    """Where its local header is."""


def read_zip(source: Source, bounds: Bounds) -> Iterator[Entry]:
    """Yield the entries of an archive. Raises `InvalidRequest`, `TooLarge`."""
    count, start, end = _directory(source)
    if count > bounds.entries:
        raise TooLarge(
            f"the archive has {count} entries: a project has at most {bounds.entries} files and "
            "folders together (projects.max_files)"
        )
    _check_places(source, _listed(source, count, start, end), start, bounds)
    for listed in _listed(source, count, start, end):
        at = _content_at(source, listed)
        yield Entry(
            listed.name,
            listed.size,
            _content(source, listed, at),
            folder=listed.folder,
            executable=bool(listed.mode & 0o111),
        )


def _damaged(what: str) -> InvalidRequest:
    return InvalidRequest(f"the archive is damaged: {what}")


def _directory(source: Source) -> tuple[int, int, int]:
    """Return the number of entries, and where the central directory begins and ends."""
    tail_at = max(source.size - END.size - MAX_COMMENT_BYTES, 0)
    tail = source.pread(END.size + MAX_COMMENT_BYTES, tail_at)
    found = len(tail)
    while (found := tail.rfind(b"PK\5\6", 0, found)) >= 0:
        if len(tail) - found >= END.size:
            _, disk, first_disk, here, count, size, start, comment = END.unpack_from(tail, found)
            if found + END.size + comment == len(tail):
                break
    else:
        raise InvalidRequest(
            "the archive is truncated, or something follows it: the end of its directory is missing"
        )
    end = tail_at + found
    locator = (
        source.pread(LOCATOR_64.size, end - LOCATOR_64.size) if end >= LOCATOR_64.size else b""
    )
    if locator.startswith(b"PK\6\7"):
        _, disk, end, disks = LOCATOR_64.unpack(locator)
        record = source.pread(END_64.size, end)
        if len(record) < END_64.size or not record.startswith(b"PK\6\6") or disks > 1:
            raise _damaged("the end of its directory is invalid")
        said = (here, count, size, start)
        _, _, _, _, disk, first_disk, here, count, size, start = END_64.unpack(record)
        # Programs that do not know zip64 go by the others.
        for short, full, most in zip(said, (here, count, size, start), MOST_32, strict=True):
            if short not in (full, most):
                raise _damaged("it has two directories")
    if disk or first_disk or here != count:
        raise InvalidRequest("the archive is one part of several")
    if start + size != end:
        raise _damaged("its directory is not where it says, or something is before the archive")
    return count, start, end


def _listed(source: Source, count: int, start: int, end: int) -> Iterator[_Listed]:
    at = start
    for _ in range(count):
        head = source.pread(CENTRAL.size, at)
        if len(head) < CENTRAL.size or not head.startswith(b"PK\1\2"):
            raise _damaged("an entry of its directory is invalid")
        (
            _, made_by, _, flags, method, _, _, crc, packed, size,
            name_size, extra_size, comment_size, _, _, attributes, local_at,
        ) = CENTRAL.unpack(head)  # fmt: skip
        rest = source.pread(name_size + extra_size, at + CENTRAL.size)
        raw, extra = rest[:name_size], rest[name_size:]
        at += CENTRAL.size + name_size + extra_size + comment_size
        if at > end:
            raise _damaged("an entry of its directory is too long")
        name = text_of(raw)
        size, packed, local_at = _sizes(name, extra, size, packed, local_at)
        mode = attributes >> 16
        kind = stat.S_IFMT(mode)
        if kind in KINDS:  # whatever system it says it was made on
            hint = (
                " (zip puts the files themselves there without -y)" if kind == stat.S_IFLNK else ""
            )
            raise refused(name, f"{KINDS[kind]}: only regular files and folders are taken{hint}")
        folder = raw.endswith(b"/") or kind == stat.S_IFDIR or bool(attributes & DOS_FOLDER)
        yield _Listed(
            raw, name, flags, method, crc, packed, size,
            mode if made_by >> 8 in UNIX_SYSTEMS else 0, folder, local_at,
        )  # fmt: skip
    if at != end:
        raise _damaged("its directory has more entries than it says")


def _sizes(name: str, extra: bytes, size: int, packed: int, local_at: int) -> tuple[int, int, int]:
    """Return the sizes and the place of an entry; those that are too large are in `extra`."""
    values = [size, packed, local_at]
    wanted = [index for index, value in enumerate(values) if value == LARGE]
    at = 0
    while wanted and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        data = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == EXTRA_64 and len(data) >= 8 * len(wanted):
            for place, index in enumerate(wanted):
                values[index] = int.from_bytes(data[8 * place : 8 * place + 8], "little")
            return values[0], values[1], values[2]
    if wanted:
        raise refused(name, "its size is missing")
    return size, packed, local_at


def _check_places(source: Source, entries: Iterator[_Listed], start: int, bounds: Bounds) -> None:
    """Check what is claimed before anything is decompressed, and that no two entries overlap."""
    places: list[tuple[int, int]] = []
    total = 0
    for listed in entries:
        if listed.flags & ENCRYPTED:
            raise refused(listed.name, "it is encrypted: make the archive without a password")
        if listed.method not in (STORED, DEFLATED):
            raise refused(
                listed.name,
                f"its compression method {listed.method} is unknown: use deflate, or none",
            )
        if listed.folder and listed.size:
            raise refused(listed.name, "a folder with content")
        total += listed.size
        if total > RATIO_SLACK + bounds.ratio * source.size:
            raise TooLarge(
                f"the archive is more than {bounds.ratio} times as large when it is decompressed "
                "(projects.max_ratio)"
            )
        # The header may say that there is something before the content, such as another entry.
        places.append((listed.at, _content_at(source, listed) + listed.packed))
    places.sort()
    for (_, end), (at, _) in pairwise([*places, (start, start)]):
        if end > at:
            raise InvalidRequest("the archive has entries that overlap")


def _content_at(source: Source, listed: _Listed) -> int:
    head = source.pread(LOCAL.size, listed.at)
    if len(head) < LOCAL.size or not head.startswith(b"PK\3\4"):
        raise refused(listed.name, "its header is missing")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = LOCAL.unpack(head)
    raw = source.pread(name_size, listed.at + LOCAL.size)
    same = raw == listed.raw and method == listed.method
    if not flags & SIZES_LATER:
        if LARGE in (size, packed):
            extra = source.pread(extra_size, listed.at + LOCAL.size + name_size)
            size, packed, _ = _sizes(listed.name, extra, size, packed, 0)
        same &= (crc, packed, size) == (listed.crc, listed.packed, listed.size)
    if not same or (flags ^ listed.flags) & ENCRYPTED:
        raise refused(listed.name, "its header and the directory of the archive differ")
    at: int = listed.at + LOCAL.size + name_size + extra_size
    return at


def _content(source: Source, listed: _Listed, at: int) -> Iterator[bytes]:
    chunks = (
        _stored(source, listed, at) if listed.method == STORED else _inflated(source, listed, at)
    )
    crc = size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > listed.size:
            raise refused(listed.name, "it has more content than it says")
        crc = zlib.crc32(chunk, crc)
        yield chunk
    if size != listed.size:
        raise refused(listed.name, "it has less content than it says")
    if crc != listed.crc:
        raise refused(listed.name, "its content has the wrong checksum")


def _stored(source: Source, listed: _Listed, at: int) -> Iterator[bytes]:
    end = at + listed.packed
    while at < end:
        chunk = source.pread(min(CHUNK_BYTES, end - at), at)
        if not chunk:
            return
        at += len(chunk)
        yield chunk


def _inflated(source: Source, listed: _Listed, at: int) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in _stored(source, listed, at):
        left = packed
        while left or inflate.unconsumed_tail:
            if inflate.eof:
                raise refused(listed.name, "its compressed content is invalid")
            source.go_on()
            try:
                yield inflate.decompress(left, CHUNK_BYTES)
            except zlib.error:
                raise refused(listed.name, "its compressed content is invalid") from None
            left = inflate.unconsumed_tail or inflate.unused_data
    while not inflate.eof:
        rest = inflate.decompress(b"", CHUNK_BYTES)
        if not rest:
            raise refused(listed.name, "its compressed content is truncated")
        yield rest

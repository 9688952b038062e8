"""Write zip archives of stored files piece by piece: nothing is compressed, and sizes are known.

So the length of the whole is known before its first byte, no header needs a second look, and what
is being sent is never more than one piece. Above the limits of the old format its extension ZIP64
is used (APPNOTE.TXT, 4.3 and 4.5.3).
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final

from streamer.engine.blobs import JobFile

__all__ = ["archive_bytes", "end_of", "header_of"]

MOST_32: Final = 0xFFFFFFFF
MOST_16: Final = 0xFFFF

LOCAL: Final = struct.Struct("<4s5H3I2H")
CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
END: Final = struct.Struct("<4s4H2IH")
END_64: Final = struct.Struct("<4sQ2H2I4Q")
LOCATOR_64: Final = struct.Struct("<4sIQI")

OLD: Final = 20
"""The version that an extractor needs (2.0), and the one for ZIP64 (4.5)."""
WITH_64: Final = 45
UNIX: Final = 3 << 8
UTF_8: Final = 1 << 11
"""The flag that says how the name is encoded."""
REGULAR: Final = 0o100644 << 16

EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
LATEST: Final = (2107, 12, 31, 23, 59, 58)


def header_of(file: JobFile, made_at: float) -> bytes:
    """Return what comes before the bytes of a file."""
    name, size = file.name.encode(), file.blob.bytes
    extra = _extra(size, size) if size >= MOST_32 else b""
    shown = min(size, MOST_32)
    head = LOCAL.pack(
        b"PK\x03\x04",
        WITH_64 if extra else OLD,
        UTF_8,
        0,
        *_dos_time(made_at),
        file.crc32,
        shown,
        shown,
        len(name),
        len(extra),
    )
    return head + name + extra


def end_of(files: Sequence[JobFile], made_at: float) -> bytes:
    """Return what comes after the last file: the directory of the archive."""
    entries = []
    at = 0
    for file in files:
        entries.append(_entry(file, made_at, at))
        at += len(header_of(file, made_at)) + file.blob.bytes
    directory = b"".join(entries)
    count, size = len(files), len(directory)
    end = b""
    if count >= MOST_16 or at >= MOST_32 or size >= MOST_32:
        end = END_64.pack(
            b"PK\x06\x06", END_64.size - 12, UNIX | WITH_64, WITH_64, 0, 0, count, count, size, at
        ) + LOCATOR_64.pack(b"PK\x06\x07", 0, at + size, 1)
    few, small, near = min(count, MOST_16), min(size, MOST_32), min(at, MOST_32)
    return directory + end + END.pack(b"PK\x05\x06", 0, 0, few, few, small, near, 0)


def archive_bytes(files: Sequence[JobFile], made_at: float) -> int:
    """Return the size of the whole archive."""
    before = sum(len(header_of(file, made_at)) + file.blob.bytes for file in files)
    return before + len(end_of(files, made_at))


def _entry(file: JobFile, made_at: float, at: int) -> bytes:
    """Return a file's entry in the directory; `at` is where its header begins."""
    name, size = file.name.encode(), file.blob.bytes
    large = [size, size] if size >= MOST_32 else []
    extra = _extra(*large, *([at] if at >= MOST_32 else []))
    shown = min(size, MOST_32)
    version = WITH_64 if extra else OLD
    head = CENTRAL.pack(
        b"PK\x01\x02",
        UNIX | version,
        version,
        UTF_8,
        0,
        *_dos_time(made_at),
        file.crc32,
        shown,
        shown,
        len(name),
        len(extra),
        0,
        0,
        0,
        REGULAR,
        min(at, MOST_32),
    )
    return head + name + extra


def _extra(*numbers: int) -> bytes:
    """Return the field for numbers that do not fit, in the order of the header; none without."""
    if not numbers:
        return b""
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers)


def _dos_time(seconds: float) -> tuple[int, int]:
    """Return time and date as MS-DOS counts them, in UTC."""
    year, month, day, hour, minute, second = min(
        max(tuple(time.gmtime(seconds)[:6]), EARLIEST), LATEST
    )
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day

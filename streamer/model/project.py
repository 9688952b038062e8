"""The form in which projects are stored, and unpacked by the init (``init/project.c``).

One entry after another: u32 length of the name, u32 mode (stat(2): a regular file or a folder), u64
size, the name in UTF-8 without a zero byte, the content; integers are little endian. A folder comes
before what it contains. An entry without a name is the end, and its size is the number of all bytes
before it. Names were checked when the project came (`streamer.jobs.archives`).
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["HEAD", "StoredEntry", "end_of_project", "head_of", "stored_entries"]

HEAD: Final = struct.Struct("<IIQ")

FOLDER: Final = stat.S_IFDIR | 0o755
FILE: Final = stat.S_IFREG | 0o644
EXECUTABLE: Final = stat.S_IFREG | 0o755


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A file or folder of a project; `at` is where its content begins."""

    name: str
    bytes: int
    mode: int
    at: int

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


def head_of(name: str, size: int, *, folder: bool = False, executable: bool = False) -> bytes:
    """Return what comes before an entry's content. Of its mode only the execute bit is kept."""
    raw = name.encode()
    mode = FOLDER if folder else EXECUTABLE if executable else FILE
    return HEAD.pack(len(raw), mode, size) + raw


def end_of_project(size: int) -> bytes:
    """Return the last entry; `size` is the number of bytes before it."""
    return HEAD.pack(0, 0, size)


def stored_entries(pread: Callable[[int, int], bytes]) -> Iterator[StoredEntry]:
    """Yield the entries of a stored project; `pread` reads so many bytes from a position."""
    at = 0
    while True:
        length, mode, size = HEAD.unpack(pread(HEAD.size, at))
        if not length:
            return
        name = pread(length, at + HEAD.size).decode()
        at += HEAD.size + length
        yield StoredEntry(name, size, mode, at)
        at += size

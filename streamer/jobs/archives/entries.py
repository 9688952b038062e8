"""What every kind of archive is read into, and the bounds that hold for all of them."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from streamer.errors import InvalidRequest, TooLarge, quoted
from streamer.model.filenames import MAX_NAME_BYTES, why_not_name

__all__ = [
    "CHUNK_BYTES",
    "Bounds",
    "Entry",
    "Interrupted",
    "Names",
    "Source",
    "Stream",
    "refused",
    "text_of",
]

CHUNK_BYTES: Final = 128 * 1024
"""How much is read, decompressed or written at a time."""

WINDOW_BYTES: Final = 16 * 1024
"""At least so much is read at once, as a header is only some bytes long."""

RATIO_SLACK: Final = 1024 * 1024
"""Bytes that any upload may have, however small it is."""

MEAN_NAME_BYTES: Final = 256
NAMES_SLACK: Final = 64 * 1024
"""All names together have at most so many bytes for each entry, and a few more.

Each answer about the project has all of them. The paths of real ones have 60 bytes."""

SHOWN_BYTES: Final = 256


class Interrupted(Exception):
    """Nobody waits for the project any more."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that a project may have.

    `entries` are files and folders together, `total` the bytes of all files, `ratio` how many times
    as large as the upload an archive may be when it is decompressed.
    """

    entries: int
    total: int
    ratio: int

    @property
    def names(self) -> int:
        """The most bytes of all names together, as they are in JSON."""
        return MEAN_NAME_BYTES * self.entries + NAMES_SLACK


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of an archive, under a name that was not checked yet.

    `content` has exactly `size` bytes or raises, and must be read before the next entry.
    """

    name: str
    size: int
    content: Iterator[bytes]
    folder: bool = False
    executable: bool = False


class Stream(Protocol):
    """Bytes in their order, of a file or from a decompressor."""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end."""


class Source:
    """An uploaded file of `size` bytes, which `stop` interrupts within one chunk."""

    def __init__(self, fd: int, size: int, stop: threading.Event) -> None:
        self.size = size
        self.at = 0
        """How much of it `read` has returned."""
        self._fd = fd
        self._stop = stop
        self._window = b""
        self._window_at = 0

    def go_on(self) -> None:
        if self._stop.is_set():
            raise Interrupted

    def pread(self, size: int, at: int) -> bytes:
        """Return at most `size` bytes from a position, fewer only at the end."""
        self.go_on()
        size = min(size, self.size - at)
        if size <= 0:
            return b""
        if size > WINDOW_BYTES:
            return os.pread(self._fd, size, at)
        begin = at - self._window_at
        if begin < 0 or begin + size > len(self._window):
            room = min(WINDOW_BYTES, self.size - at)
            self._window, self._window_at, begin = os.pread(self._fd, room, at), at, 0
        return self._window[begin : begin + size]

    def read(self, size: int) -> bytes:
        data = self.pread(size, self.at)
        self.at += len(data)
        return data


class Names:
    """The names of one project. It keeps 16 bytes of each, so that long ones take no memory."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._files: set[bytes] = set()
        self._folders: dict[bytes, bytes] = {}
        """The exact name of each folder by the one that ignores case, as digests."""
        self._again = 0
        self._bytes = 0
        """Of all names, as they are in JSON."""

    def add(self, name: str, *, folder: bool) -> list[str]:
        """Take a name; return the folders in it, and itself if it is one, that are new.

        Raises `InvalidRequest` or `TooLarge`, which name the entry.
        """
        if why := why_not_name(name):
            # Compress-Archive of Windows PowerShell 5 writes them instead of slashes.
            more = (
                " (folders are separated by /; on Windows use tar or 7-Zip)" if "\\" in name else ""
            )
            raise refused(name, why + more)
        new = [name] if folder and self._is_new_folder(name, name) else []
        if folder and not new:
            self.add_again(name)
        if not folder:
            folded = _digest(_folded(name))
            if folded in self._files or folded in self._folders:
                raise refused(
                    name, "an earlier entry has the same name, or differs from it only in case"
                )
            self._files.add(folded)
            self._count(name, name)
        end = name.rfind("/")
        while end > 0 and self._is_new_folder(name[:end], name):
            new.append(name[:end])
            end = name.rfind("/", 0, end)
        return new[::-1]

    def add_again(self, name: str) -> None:
        """Take a folder that is there already.

        Nothing else counts it, and a small archive may have millions of it. Raises `TooLarge`.
        """
        self._again += 1
        if self._again > self._bounds.entries:
            raise TooLarge(
                f"entry {quoted(name)}: the archive names folders again more than "
                f"{self._bounds.entries} times (projects.max_files)"
            )

    def _is_new_folder(self, folder: str, name: str) -> bool:
        folded, exact = _digest(_folded(folder)), _digest(folder)
        if folded in self._files:
            raise refused(name, f"an earlier entry is a file with the name {quoted(folder)}")
        known = self._folders.get(folded)
        if known == exact:
            return False
        if known is not None:
            raise refused(name, f"an earlier folder differs from {quoted(folder)} only in case")
        self._folders[folded] = exact
        self._count(folder, name)
        return True

    def _count(self, new: str, name: str) -> None:
        """Count a file or folder that is `new`; `name` is that of the entry."""
        self._bytes += len(msgspec.json.encode(new))
        if self._bytes > self._bounds.names:
            raise TooLarge(
                f"entry {quoted(name)}: the names of a project have at most {self._bounds.names} "
                f"bytes together, {MEAN_NAME_BYTES} for each of projects.max_files"
            )
        if len(self._files) + len(self._folders) > self._bounds.entries:
            raise TooLarge(
                f"entry {quoted(name)}: a project has at most {self._bounds.entries} files and "
                "folders together (projects.max_files)"
            )


def text_of(raw: bytes) -> str:
    """Return a name of an archive, without what `tar -c .` and a folder add to it.

    Raises `InvalidRequest` if it is too long or not UTF-8.
    """
    at = 0
    while raw.startswith(b"./", at):  # the name may be nothing else, and 64 KiB long
        at += 2
    raw = raw[at:]
    if raw != b"/":
        raw = raw.removesuffix(b"/")
    shown = raw[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
    if len(raw) > MAX_NAME_BYTES:
        raise refused(shown, f"a name has at most {MAX_NAME_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise refused(
            shown,
            "the name is not UTF-8: use ASCII, or a program that writes UTF-8 (7-Zip: -mcu=on)",
        ) from None


def refused(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"entry {quoted(name)}: {why}")


def _folded(name: str) -> str:
    # As file systems do that ignore case: they also take composed and decomposed letters for one.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()

"""List a workspace that a job may be changing.

Folders are opened one name after another: a path may be longer than open(2) takes, and no link is
followed that has come into the place of a folder.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

__all__ = ["Entry", "Listing", "list_folder"]

MOST_DEPTH: Final = 128
"""How many names the path of an entry may have."""

MOST_CHARACTERS: Final = 4 * 1024 * 1024
"""Of all paths together."""

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link beneath the workspace; `path` is relative to the workspace."""

    path: str
    mode: int
    """``st_mode``: its type and permissions."""
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found; it is not `complete` if there is more than the limits allow."""

    entries: Sequence[Entry]
    complete: bool


def list_folder(root: int, most: int) -> Listing:
    """List at most `most` entries below an open folder, and close it; upper folders come first.

    Names that vanish meanwhile are left out. Folders that cannot be opened, and those where
    something else is mounted, are listed without their content.
    """
    found: list[Entry] = []
    folders = deque([""])
    characters, complete = 0, True
    try:
        with closing(_entries(root, folders)) as entries:
            # Vanished names count too: a job could make new ones for ever.
            for seen, entry in enumerate(entries):
                if seen == most or characters > MOST_CHARACTERS:
                    complete = False
                    break
                if entry is None:
                    continue
                found.append(entry)
                characters += len(entry.path)
                if stat.S_ISDIR(entry.mode):
                    if entry.path.count("/") + 1 < MOST_DEPTH:
                        folders.append(entry.path)
                    else:
                        complete = False
    finally:
        os.close(root)
    return Listing(found, complete)


def _entries(root: int, folders: deque[str]) -> Generator[Entry | None, None, None]:
    """Yield what is in these folders, also those that are added meanwhile; None if it vanished."""
    device = os.fstat(root).st_dev
    while folders:
        above = folders.popleft()
        try:
            folder = _opened(root, above)
        except OSError:
            continue
        try:
            if os.fstat(folder).st_dev != device:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield _described(entry, above)
        finally:
            os.close(folder)


def _described(entry: os.DirEntry[str], above: str) -> Entry | None:
    try:
        at = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Entry(f"{above}/{entry.name}" if above else entry.name, at.st_mode, at.st_size)


def _opened(root: int, path: str) -> int:
    """Open a folder below an open one, with no more than two descriptors at a time."""
    folder = os.dup(root)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(name, FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder

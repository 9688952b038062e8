"""List a workspace that a job may be changing.

Folders are opened one name after another: a path may be longer than open(2) takes, and no link is
followed that has come into the place of a folder.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["Entry", "Lister", "Listing"]

MOST_DEPTH: Final = 128
"""How many names the path of an entry may have."""

MOST_CHARACTERS: Final = 4 * 1024 * 1024
"""Of all paths together."""

OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Step = Literal["folder", "vanished", "closed", "hidden"]
FOLDER: Final = "folder"
VANISHED: Final = "vanished"
CLOSED: Final = "closed"
HIDDEN: Final = "hidden"
"""A folder for which we have no permission, and what is in one that may be read but not entered.
As root we have it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link beneath the workspace; `path` is relative to the workspace."""

    path: str
    mode: int
    """``st_mode``: its type and permissions."""
    size: int


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found; it is not `complete` if there is more than the limits allow.

    `closed` says that there are folders into which the job does not let us look.
    """

    entries: Sequence[Entry]
    complete: bool
    closed: bool = False


class Lister:
    """Lists at most `most` entries below an open folder; upper folders come first. Close it.

    Names that vanish meanwhile are left out, and so are those in a folder that may not be entered.
    Folders that cannot be opened, and those where something else is mounted, are listed without
    their content.
    """

    def __init__(self, root: int, most: int) -> None:
        """Take ownership of the folder's descriptor."""
        self._root = root
        self._most = most
        self._found: list[Entry] = []
        self._folders = deque([""])
        self._seen = 0
        self._characters = 0
        self._complete = True
        self._closed = False
        self._steps = _steps(root, self._folders)

    def go_on(self, seconds: float) -> Listing | None:
        """List for about so long; return all that was found at the end. Raises OSError."""
        until = time.monotonic() + seconds
        for step in self._steps:
            # Vanished names count too: a job could make new ones for ever. Folders have counted.
            if step not in (FOLDER, CLOSED) and not self._has_room():
                self._complete = False
                break
            if isinstance(step, Entry):
                self._add(step)
            elif step in (CLOSED, HIDDEN):
                self._closed = True
            if time.monotonic() >= until:
                return None
        return Listing(self._found, self._complete, self._closed)

    def _has_room(self) -> bool:
        self._seen += 1
        return self._seen <= self._most and self._characters <= MOST_CHARACTERS

    def _add(self, entry: Entry) -> None:
        self._found.append(entry)
        self._characters += len(entry.path)
        if stat.S_ISDIR(entry.mode):
            if entry.path.count("/") + 1 < MOST_DEPTH:
                self._folders.append(entry.path)
            else:
                self._complete = False

    def close(self) -> None:
        self._steps.close()
        os.close(self._root)


def _steps(root: int, folders: deque[str]) -> Generator[Entry | Step, None, None]:
    """Yield what is in these folders, also those that are added meanwhile."""
    device = os.fstat(root).st_dev
    while folders:
        above = folders.popleft()
        yield FOLDER  # to open it may take as long as many entries do
        try:
            folder = _opened(root, above)
        except OSError as error:
            if isinstance(error, PermissionError):
                yield CLOSED
            continue
        try:
            if os.fstat(folder).st_dev != device:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield _described(entry, above)
        finally:
            os.close(folder)


def _described(entry: os.DirEntry[str], above: str) -> Entry | Step:
    try:
        at = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return VANISHED
    except PermissionError:
        return HIDDEN
    return Entry(f"{above}/{entry.name}" if above else entry.name, at.st_mode, at.st_size)


def _opened(root: int, path: str) -> int:
    """Open a folder below an open one, with no more than two descriptors at a time."""
    folder = os.dup(root)
    for name in path.split("/") if path else ():
        try:
            inner = os.open(name, OPEN, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder

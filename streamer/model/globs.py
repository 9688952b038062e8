"""Match paths below a workspace against patterns such as ``out/**/*.png``.

A pattern is relative and case-sensitive. ``*``, ``?`` and ``[abc]`` stay within one part of a path,
and ``**`` as a whole part stands for any number of folders, at the end for all files in them. As in
a shell, none of them stands for a leading dot, so that what tools keep in hidden folders is not
found by accident.

Paths and patterns are chosen by callers and programs: the time to match is proportional to the
product of their lengths.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Final

from streamer.model.filenames import why_not_name

__all__ = ["MAX_GLOBS", "MAX_GLOBS_BYTES", "Glob", "why_not_glob"]

MAX_GLOBS: Final = 32
MAX_GLOBS_BYTES: Final = 4096
"""Of all patterns of a job together: this bounds the time to match a path."""

ANY_FOLDERS: Final = "**"
WILD: Final = re.compile(r"[*?[]")

Matches = Callable[[str], object]


def why_not_glob(pattern: str) -> str:
    """Return why a pattern is refused, or ``""``."""
    if pattern.endswith("/") and not why_not_name(pattern[:-1]):
        return "a pattern stands for files: write folder/** for all files below a folder"
    if why := why_not_name(pattern):
        return why.replace("a name", "a pattern", 1)
    for part in pattern.split("/"):
        if ANY_FOLDERS in part and part != ANY_FOLDERS:
            return "** stands for whole folders: write it between slashes, or *"
    return ""


class Glob:
    """One pattern, which `why_not_glob` has admitted.

    It is compiled when it is first used, in the thread that does: that may take a quarter second.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.is_name = not WILD.search(pattern)
        """Whether it is just the name of one file."""

    @functools.cached_property
    def _parts(self) -> list[Matches | None]:
        parts = self.pattern.split("/")
        if parts[-1] == ANY_FOLDERS:
            parts.append("*")
        return [None if part == ANY_FOLDERS else _matcher(part) for part in parts]

    def matches(self, path: str) -> bool:
        """Return whether the pattern stands for a path."""
        if self.is_name:
            return path == self.pattern
        # All places that the parts of the path may have reached: there is nothing to go back to.
        places = self._after_folders({0})
        for part in path.split("/"):
            reached = set()
            for place in places:
                if place == len(self._parts):
                    continue
                matcher = self._parts[place]
                if matcher is None:
                    if not part.startswith("."):
                        reached.add(place)
                elif matcher(part):
                    reached.add(place + 1)
            places = self._after_folders(reached)
            if not places:
                return False
        return len(self._parts) in places

    def _after_folders(self, places: set[int]) -> set[int]:
        """Add the places behind each ``**``, which may stand for no folder."""
        found = set(places)
        for place, part in enumerate(self._parts):
            if place in found and part is None:
                found.add(place + 1)
        return found


def _matcher(part: str) -> Matches:
    if not WILD.search(part):
        return part.__eq__
    return re.compile(_expression(part), re.DOTALL).fullmatch


def _expression(part: str) -> str:
    """Return a regular expression for one part of a pattern.

    What follows a ``*`` is found at the first place where it can be, and never searched for again
    (``(?>...)``): a later place would leave less for the rest.
    """
    pieces = [""]
    at = 0
    while at < len(part):
        if part[at] == "*":
            if pieces[-1] or len(pieces) == 1:
                pieces.append("")
            at += 1
        else:
            piece, at = _one(part, at)
            pieces[-1] += piece
    first, *rest = pieces
    # What it begins with may be a dot only if it is written.
    start = "" if part[0] not in "*?[" else r"(?!\.)"
    if not rest:
        return start + first
    *middle, last = rest
    found = "".join(f"(?>.*?{piece})" for piece in middle)
    return f"{start}{first}{found}.*{last}"


def _one(part: str, at: int) -> tuple[str, int]:
    """Return the expression for one character of a pattern, and where the next one begins."""
    if part[at] == "?":
        return ".", at + 1
    if part[at] == "[":
        # A ] as the first of them is one of them.
        first = at + 2 if part[at + 1 : at + 2] in ("!", "^") else at + 1
        end = part.find("]", first + 1)
        if end > 0:
            return _class(part[first:end], negated=first == at + 2), end + 1
    return re.escape(part[at]), at + 1


def _class(members: str, *, negated: bool) -> str:
    found = []
    at = 0
    while at < len(members):
        low = high = members[at]
        at += 1
        if members[at : at + 1] == "-" and at + 1 < len(members):
            high = members[at + 1]
            at += 2
        if low <= high:
            found.append(f"{re.escape(low)}-{re.escape(high)}")
    if not found:
        return "." if negated else r"(?!)"
    return f"[{'^' if negated else ''}{''.join(found)}]"

"""Tell whether what a sandbox shows of the host has been replaced since it was made.

Another file may be at a path, and something may be mounted there or below. A file system may hang,
so this is for a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["What", "what_is_at"]

What = tuple[object, ...]
"""What is at a path. As long as a sandbox shows it, nothing else there is equal to it."""

ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


def what_is_at(paths: Iterable[str]) -> Mapping[str, What]:
    """Return what is at each path, and mounted below it."""
    mounts = _mounts()
    found: dict[str, What] = {}
    for path in paths:
        below = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
        inside = tuple(line for place, line in mounts if (place + b"/").startswith(below))
        found[path] = (_file(path), inside)
    return found


def _file(path: str) -> tuple[int, int] | None:
    try:
        # The mount of a sandbox holds the file, so that its number is not used again.
        at = os.stat(path)  # noqa: PTH116 - a path object takes longer
    except OSError:
        return None
    return at.st_dev, at.st_ino


def _mounts() -> list[tuple[bytes, bytes]]:
    """Return the host's mount points, and what is known of each (proc_pid_mountinfo(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        place = ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), line.split(b" ", 5)[4])
        found.append((place, line))
    return found

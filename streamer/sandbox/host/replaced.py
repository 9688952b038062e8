"""Tell whether what a sandbox shows of the host has been replaced since it was made.

Another file may be at a path, and something may be mounted there or below. A file system may hang,
so this is for a thread.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["What", "what_is_at"]

ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


class What(NamedTuple):
    """What is at a path."""

    shown: tuple[object, ...]
    """As long as a sandbox shows it, nothing else there has an equal one."""
    changed_ns: int
    """When its content was last written; of a folder, when a name in it was."""


def what_is_at(paths: Iterable[str]) -> Mapping[str, What]:
    """Return what is at each path, and mounted below it."""
    mounts = _mounts()
    found: dict[str, What] = {}
    for path in paths:
        try:
            # The mount of a sandbox holds the file, so that its number is not used again.
            at = os.stat(path)  # noqa: PTH116 - a path object takes longer
        except OSError:
            found[path] = What((), 0)
            continue
        inside: Iterable[bytes] = ()
        if stat.S_ISDIR(at.st_mode):
            below = os.fsencode(os.path.realpath(path)).rstrip(b"/") + b"/"
            inside = (line for place, line in mounts if (place + b"/").startswith(below))
        found[path] = What((at.st_dev, at.st_ino, *inside), at.st_mtime_ns)
    return found


def _mounts() -> list[tuple[bytes, bytes]]:
    """Return the host's mount points, and what is known of each (proc_pid_mountinfo(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        place = ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), line.split(b" ", 5)[4])
        found.append((place, line))
    return found

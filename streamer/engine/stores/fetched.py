"""Files without a name, for bytes that are fetched before they are read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["new_file", "reopened", "write_at"]

READ: Final = os.O_RDONLY | os.O_CLOEXEC


def new_file(folder: Path | None) -> int:
    fd, name = tempfile.mkstemp(dir=folder, prefix="blob-")
    Path(name).unlink()
    return fd


def write_at(fd: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written


def reopened(fd: int) -> int:
    """Return a descriptor of the file that can only be read, since it may be shared."""
    return os.open(f"/proc/self/fd/{fd}", READ)

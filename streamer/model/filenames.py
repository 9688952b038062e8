"""Which names a file below a workspace may have."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_DEPTH", "MAX_NAME_BYTES", "MAX_PART_BYTES", "why_not_name"]

MAX_DEPTH: Final = 64
"""The parts of a name."""
MAX_NAME_BYTES: Final = 1024
MAX_PART_BYTES: Final = 255
"""NAME_MAX of all relevant file systems (limits.h)."""

MOVING: Final = frozenset((b"", b".", b".."))
"""Parts with which a path leads elsewhere than it seems to, or is not the only one of its file."""


def why_not_name(name: str) -> str:
    """Return why a name is refused, or ``""``; it must clearly be below the workspace."""
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        return "the name is not valid Unicode"
    if not name or len(raw) > MAX_NAME_BYTES:
        return f"a name has 1 to {MAX_NAME_BYTES} bytes"
    parts = raw.split(b"/")
    if b"\0" in raw or b"\\" in raw:
        why = "a name must not contain NUL or backslash"
    elif not MOVING.isdisjoint(parts):
        why = "a name must be relative, without empty, . or .. parts"
    elif len(parts) > MAX_DEPTH:
        why = f"a name has at most {MAX_DEPTH} parts, and this one {len(parts)}"
    elif max(map(len, parts)) > MAX_PART_BYTES:
        why = f"a part of a name has at most {MAX_PART_BYTES} bytes"
    else:
        why = ""
    return why

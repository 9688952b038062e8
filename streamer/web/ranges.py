"""Parse the header Range: which part of a file a request is for (RFC 9110, 14)."""

from __future__ import annotations

import re
from typing import Final

from streamer.model.ranges import ByteRange, Unsatisfiable

__all__ = ["asked_range", "byte_range", "content_range"]

# More digits than any size has would only be compared with one.
ONE_RANGE: Final = re.compile(r"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")


def asked_range(header: str | None) -> ByteRange | None:
    """Return the bytes that a request is for; None means all.

    So does what is malformed, another unit, and several ranges at once, which a server may ignore.
    """
    found = None if header is None else ONE_RANGE.fullmatch(header)
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return ByteRange(None, int(suffix))
    if last and int(last) < int(first):
        return None
    return ByteRange(int(first), int(last) if last else None)


def byte_range(header: str | None, size: int) -> range | None:
    """Return what `asked_range` does, for a file of `size` bytes. Raises `Unsatisfiable`."""
    asked = asked_range(header)
    if asked is None:
        return None
    part = asked.within(size)
    if part is None:
        raise Unsatisfiable(size)
    return part


def content_range(part: range, size: int) -> str:
    """Return the header that says which part of a file an answer has."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"

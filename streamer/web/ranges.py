"""Parse the header Range: which part of a file a request is for (RFC 9110, 14)."""

from __future__ import annotations

import re
from typing import Final

from streamer.errors import CallerError

__all__ = ["Unsatisfiable", "byte_range"]

# More digits than any size has would only be compared with one.
ONE_RANGE: Final = re.compile(r"bytes=[ \t]*(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))[ \t]*")


class Unsatisfiable(CallerError):
    """No byte of the file is in the range."""

    status = 416


def byte_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a request is for; None means all.

    So does what is malformed, another unit, and several ranges at once, which a server may ignore.
    Raises `Unsatisfiable`.
    """
    found = None if header is None else ONE_RANGE.fullmatch(header)
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= end:
        said = f"the file has {size} bytes"
        raise Unsatisfiable(said, path="Range", code="range_not_satisfiable")
    return range(start, end)

"""A part of a file, asked for by somebody who does not know its size (RFC 9110, 14)."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import CallerError

__all__ = ["ByteRange", "Unsatisfiable"]


class Unsatisfiable(CallerError):
    """A file, which has `size` bytes, has none of those that were asked for."""

    status = 416

    def __init__(self, size: int) -> None:
        said = f"the file has {size} bytes"
        super().__init__(said, path="Range", code="range_not_satisfiable")
        self.size = size


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from number `first` to number `last`, or to the end.

    Without `first` these are as many as `last` says, at the end.
    """

    first: int | None
    last: int | None = None

    def within(self, size: int) -> range | None:
        """Return those that a file of `size` bytes has; None if it has none of them."""
        if self.first is None:
            start, end = max(0, size - (self.last or 0)), size
        else:
            start, end = self.first, size if self.last is None else min(self.last + 1, size)
        return range(start, end) if start < end else None

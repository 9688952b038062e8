"""Allocate the pages of one file."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Final

__all__ = ["PAGE_BYTES", "Pages", "Run"]

PAGE_BYTES: Final = 4096

Run = tuple[int, int]
"""The number of the first page, and the number of consecutive pages."""


class Pages:
    """Which of `most` pages are in use.

    The first free pages are taken, in several runs if necessary. So there is no fragmentation that
    makes pages unusable, in whatever order they are freed, and the file stays as short as possible.
    """

    def __init__(self, most: int) -> None:
        self.used = 0
        self._most = most
        self._free = [(0, most)]
        """Sorted, and adjacent runs are joined."""

    def take(self, count: int) -> list[Run]:
        """Allocate `count` pages, or none if fewer are free."""
        if count > self._most - self.used:
            return []
        self.used += count
        runs: list[Run] = []
        while count:
            first, length = self._free[0]
            taken = min(length, count)
            self._free[:1] = [(first + taken, length - taken)] if taken < length else []
            runs.append((first, taken))
            count -= taken
        return runs

    def give_back(self, runs: Sequence[Run]) -> None:
        for first, length in runs:
            self.used -= length
            at = bisect.bisect(self._free, (first, length))
            end = first + length
            if at < len(self._free) and self._free[at][0] == end:
                end += self._free.pop(at)[1]
            if at and sum(self._free[at - 1]) == first:
                at -= 1
                first = self._free.pop(at)[0]  # noqa: PLW2901 - it has grown
            self._free.insert(at, (first, end - first))

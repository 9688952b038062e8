"""Share the pages of one file out: in pieces of any length, and every freed page is used again."""

from __future__ import annotations

import bisect
from typing import Final

__all__ = ["PAGE_BYTES", "Pages", "Run"]

PAGE_BYTES: Final = 4096

LOOK_AT: Final = 64
"""How many holes are looked at for one that fits before the file grows."""

Run = tuple[int, int]
"""The number of the first page, and how many follow each other from there."""


class Pages:
    """Which of `most` pages are in use.

    What finds no hole of its length is put into several, so a page that is free is never lost to
    its neighbours: it does not matter in which order things are freed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._holes: list[Run] = []
        """In order, and none touches the next."""
        self.end = 0
        """How many pages the file has."""
        self.used = 0

    def take(self, count: int) -> tuple[Run, ...]:
        """Return pages for something new; none if there are not so many."""
        if count > self._most - self.used:
            return ()
        self.used += count
        for index, (first, length) in enumerate(self._holes[:LOOK_AT]):
            if length >= count:
                self._shorten(index, count)
                return ((first, count),)
        if count <= self._most - self.end:
            return (self._grow(count),)
        runs: list[Run] = []
        while count and self._holes:
            first, length = self._holes[-1]
            taken = min(length, count)
            self._shorten(len(self._holes) - 1, taken)
            runs.append((first, taken))
            count -= taken
        return (*runs, self._grow(count)) if count else tuple(runs)

    def give_back(self, runs: tuple[Run, ...]) -> None:
        """Take pages back."""
        for run in runs:
            self.used -= run[1]
            self._merge(run)

    def _grow(self, count: int) -> Run:
        run = (self.end, count)
        self.end += count
        return run

    def _shorten(self, index: int, count: int) -> None:
        first, length = self._holes[index]
        if length == count:
            del self._holes[index]
        else:
            self._holes[index] = (first + count, length - count)

    def _merge(self, run: Run) -> None:
        first, length = run
        index = bisect.bisect(self._holes, run)
        if index < len(self._holes) and self._holes[index][0] == first + length:
            length += self._holes.pop(index)[1]
        if index and sum(self._holes[index - 1]) == first:
            first, before = self._holes[index - 1]
            length += before
            del self._holes[index - 1]
            index -= 1
        if first + length == self.end:
            self.end = first
        else:
            self._holes.insert(index, (first, length))

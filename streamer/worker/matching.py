"""Find what patterns stand for in the listing of a workspace: pure code for a thread, in turns."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from streamer.model.events import FailureReason
from streamer.model.filenames import why_not_name
from streamer.model.globs import Glob
from streamer.sandbox.listing import Listing

__all__ = ["MOST_TOLD", "Failure", "Matching"]

MOST_TOLD: Final = 20
"""How many failures are told."""

TURN_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Failure:
    """Why nothing is kept for a name or a pattern."""

    reason: FailureReason
    name: str | None = None
    glob: str | None = None


class Matching:
    """At most `most` names of files that patterns stand for, in the order of both.

    Nobody has looked yet whether there is a file of a pattern without wildcards.
    """

    def __init__(self, globs: Sequence[Glob], listing: Listing, most: int) -> None:
        self.names: dict[str, None] = {}
        self.failures: list[Failure] = []
        """The first of them."""
        self._globs = globs
        self._listing = listing
        self._most = most
        self._refused: set[str] = set()
        self._steps = self._match_all()

    def go_on(self) -> bool:
        """Match for `TURN_S`; return whether all is done."""
        until = time.monotonic() + TURN_S
        return all(time.monotonic() < until for _ in self._steps)

    def _match_all(self) -> Iterator[None]:
        listed = sorted(
            (entry.path, stat.S_ISREG(entry.mode))
            for entry in self._listing.entries
            if not stat.S_ISDIR(entry.mode)
        )
        searched = self._listing.complete and not self._listing.closed
        for glob in self._globs:
            matched = False
            names = [(glob.pattern, True)] if glob.is_name else listed
            for name, is_file in names:
                yield
                if glob.matches(name):
                    matched = True
                    if not self._add(name, is_file=is_file):
                        self._fail(Failure("too_many_files", glob=glob.pattern))
                        break
            if not glob.is_name and not searched:
                self._fail(Failure("search_incomplete", glob=glob.pattern))
            elif not matched:
                self._fail(Failure("no_match", glob=glob.pattern))

    def _add(self, name: str, *, is_file: bool) -> bool:
        """Add a name, or tell why not; return False if there are too many."""
        if name in self.names or name in self._refused:
            return True
        bad = why_not_name(name)
        if bad or not is_file:
            self._refused.add(name)
            self._fail(Failure("bad_name" if bad else "not_a_file", name))
        elif len(self.names) == self._most:
            return False
        else:
            self.names[name] = None
        return True

    def _fail(self, failure: Failure) -> None:
        if len(self.failures) < MOST_TOLD:
            self.failures.append(failure)

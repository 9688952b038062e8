"""Remember what jobs want, to tell what is worth keeping for them.

Callers choose limits, so one of them could want something else with each job. What is wanted once
must not take the place of what is wanted again and again.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

__all__ = ["Wants"]

LATELY_S: Final = 60.0
"""What no job has wanted for so long is worth no more than what was wanted once."""

MOST_KINDS: Final = 64
"""Of so many kinds it is known when they were wanted."""

Kind = TypeVar("Kind", bound=Hashable)


class Wants(Generic[Kind]):
    """When jobs have wanted each kind last, and which they want again and again."""

    def __init__(self) -> None:
        self._wanted: dict[Kind, tuple[bool, float]] = {}

    def add(self, kind: Kind) -> None:
        now = time.monotonic()
        again = kind in self._wanted and self._wanted[kind][1] > now - LATELY_S
        self._wanted[kind] = (again, now)
        if len(self._wanted) > MOST_KINDS:
            del self._wanted[
                min((other for other in self._wanted if other != kind), key=self.worth)
            ]

    def worth(self, kind: Kind) -> tuple[bool, float]:
        """Return what is less for what should be given up earlier: is it usual, and since when."""
        again, at = self._wanted.get(kind, (False, 0.0))
        return again and at > time.monotonic() - LATELY_S, at

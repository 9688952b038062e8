"""When another sandbox is opened ahead of its job: what jobs have wanted, one after another.

While jobs use the processors none is opened: it would take from them what it saves a later one, and
more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from streamer.sandbox.processors import Processors

__all__ = ["Refill"]

BEGUN_S: Final = 0.01
"""Between the start of a job's program and the next opening: a short one has ended by then, and
what it has written was sent first."""

PAUSE_S: Final = 0.002
"""Between the end of the only job and the next opening."""

AFTER_S: Final = 0.01
"""The same while others run: one that waits for the place comes first."""

BUSY_S: Final = 0.02
"""Between two looks whether a processor is free."""

QUIET_S: Final = 0.1
"""Jobs that neither come nor go for so long may be waiting, and use no processor."""

PATIENCE_S: Final = 0.5
"""After so long one is opened in any case: others may keep the processors busy for hours."""

Kind = TypeVar("Kind", bound=Hashable)


class Refill(Generic[Kind]):
    """Begins what is wanted once there are a place and a processor for it."""

    def __init__(
        self,
        begin: Callable[[Kind], bool],
        making: Callable[[], int],
        places: int,
        most: int,
    ) -> None:
        """`begin` returns False if there is no room for one more of a kind.

        `making` returns how many were begun and are not ready. There are `places` for jobs, and
        `most` of the last wants are remembered.
        """
        self.jobs = 0
        """How many have a sandbox."""
        self._begin = begin
        self._making = making
        self._places = places
        self._wanted: deque[Kind] = deque(maxlen=most)
        self._processors = Processors()
        self._moved_at = 0.0
        """When the last job came or went."""
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        """When the timer is due: that of another event loop may not tell it."""
        self._due = 0.0
        self._stopped = False

    def job_came(self) -> None:
        self.jobs += 1
        self._moved_at = time.monotonic()

    def job_went(self) -> None:
        self.jobs -= 1
        self._moved_at = time.monotonic()
        if self._wanted:
            self._look_in(AFTER_S if self.jobs else PAUSE_S)

    def want(self, kind: Kind) -> None:
        """Begin one like a job's, whose program runs now."""
        if self._stopped:
            return
        if not self._wanted:
            self._due = time.monotonic() + PATIENCE_S
        self._wanted.append(kind)
        self._look_in(BEGUN_S)

    def one_is_ready(self) -> None:
        """Go on with the next one."""
        self._look_in(0)

    def stop(self) -> None:
        self._stopped = True
        self._wanted.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_in(self, pause_s: float) -> None:
        at = time.monotonic() + pause_s
        if self._timer is not None:
            if self._looks_at <= at:
                return
            self._timer.cancel()
        self._looks_at = at
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        """Begin what is wanted, unless jobs or others need the processors for now."""
        self._timer = None
        while self._wanted and not self._stopped:
            making = self._making()
            if self.jobs >= self._places or making >= self._processors.count:
                return  # the end of each job looks again, and each that is ready
            if self._is_busy(self.jobs + making):
                self._look_in(BUSY_S)
                return
            kind = next((kind for kind in self._wanted if self._begin(kind)), None)
            if kind is None:
                if not self.jobs:
                    self._wanted.clear()  # there are enough of each
                return
            self._wanted.remove(kind)
            self._due = time.monotonic() + PATIENCE_S

    def _is_busy(self, busy: int) -> bool:
        """Return whether all processors are needed, `busy` of them by jobs and what is begun."""
        now = time.monotonic()
        if busy >= self._processors.count:
            # However few of their programs happen to run at this moment. Many that wait, each for
            # a hundredth of a second, need all processors together.
            return now < self._moved_at + QUIET_S or not self._processors.were_free()
        return self._processors.are_wanted() and now < self._due

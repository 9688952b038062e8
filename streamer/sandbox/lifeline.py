"""Until when programs may run, unless this process says again and again that they may go on.

Their inits end them then: this process may stand still by that time, or be frozen with its machine.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Lifeline"]


class _Told(Protocol):
    def may_run_until(self, until_us: int) -> None: ...


class Lifeline:
    """That of one process. Without `extend` its programs have no such end."""

    def __init__(self) -> None:
        self.until_us = 0
        """By `now_us`."""
        self._told: set[_Told] = set()

    @staticmethod
    def now_us() -> int:
        # It goes on while the machine is suspended, and is the same in every process of it.
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def extend(self, until_us: int) -> None:
        """Let all programs run until then."""
        self.until_us = until_us
        for one in tuple(self._told):
            one.may_run_until(until_us)

    def add(self, sandbox: _Told) -> None:
        """Tell a sandbox of each `extend`, until `discard`."""
        self._told.add(sandbox)

    def discard(self, sandbox: _Told) -> None:
        self._told.discard(sandbox)

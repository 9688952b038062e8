"""How much of the host's processors is wanted, and how much is free, as the kernel counts it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["Processors"]

WINDOW_S: Final = 0.1
"""The kernel counts idle time in hundredths of a second."""

FREE: Final = 0.95
"""So many processors must have been idle, taken together: what is opened keeps one busy."""


class Processors:
    """Those that this process may use."""

    def __init__(self) -> None:
        self.count = len(os.sched_getaffinity(0))
        self._looked_at = 0.0
        self._idle_s = 0.0

    def are_wanted(self) -> bool:
        """Return whether others want all of them at this moment (proc_loadavg(5))."""
        try:
            runnable = Path("/proc/loadavg").read_text().split()[3].partition("/")[0]
            return int(runnable) - 1 >= self.count  # this thread is one of them
        except (OSError, ValueError, IndexError):
            return False

    def were_free(self) -> bool:
        """Return whether as much as one was idle since the last call, for at least `WINDOW_S`.

        A call that is earlier, or much later, begins a new time, and returns False.
        """
        now = time.monotonic()
        over = now - self._looked_at
        if over < WINDOW_S:
            return False
        idle_s, before_s = _idle_s(), self._idle_s
        self._looked_at, self._idle_s = now, idle_s
        return over < 10 * WINDOW_S and idle_s - before_s >= FREE * over


def _idle_s() -> float:
    """Return for how long the processors were idle, of all of them together (proc_uptime(5))."""
    try:
        return float(Path("/proc/uptime").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0

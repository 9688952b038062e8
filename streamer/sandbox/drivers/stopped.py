"""Notice that a job has stopped its init, which then cannot watch the job's limits.

As pid 1 of its namespace an init cannot be signalled from inside. If the wrapper has its own pid 1
(firejail), the init runs as the job's user, and SIGSTOP cannot be ignored.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

__all__ = ["StopWatch"]

LOOK_S: Final = 0.1


class StopWatch:
    """Looks whether a process is stopped: state T in proc_pid_stat(5). Close it after use."""

    def __init__(self, pid: int) -> None:
        self._stat = f"/proc/{pid}/stat"
        self._loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[None] = self._loop.create_future()
        """Done once it was seen to be stopped."""
        self._timer = self._look_later()

    def close(self) -> None:
        self._timer.cancel()

    def _look_later(self) -> asyncio.TimerHandle:
        # At random times: otherwise a job could let it run just when it is checked.
        return self._loop.call_later(random.uniform(LOOK_S / 2, LOOK_S * 1.5), self._look)

    def _look(self) -> None:
        if _state(self._stat) == "T":
            self.stopped.set_result(None)
        else:
            self._timer = self._look_later()


def _state(stat: str) -> str:
    try:
        text = Path(stat).read_text(errors="replace")
    except OSError:
        return ""  # it has ended, which its socket reports
    # The process name before it may contain anything, also spaces and brackets.
    return text.rpartition(")")[2].split()[0]

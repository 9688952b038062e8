"""Notice that a job has stopped its init, which then cannot watch the job's limits.

As pid 1 of its namespace an init cannot be signalled from inside. If the wrapper has its own pid 1
(firejail), the init runs as the job's user, and SIGSTOP cannot be ignored.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

__all__ = ["until_stopped"]

LOOK_S: Final = 0.1


async def until_stopped(pid: int) -> None:
    """Return once a process is stopped: state T in proc_pid_stat(5)."""
    stat = Path("/proc", str(pid), "stat")
    while True:
        # At random times: otherwise a job could let it run just when it is checked.
        await asyncio.sleep(random.uniform(LOOK_S / 2, LOOK_S * 1.5))
        if _state(stat) == "T":
            return


def _state(stat: Path) -> str:
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return ""  # it has ended, which its socket reports
    # The process name before it may contain anything, also spaces and brackets.
    return text.rpartition(")")[2].split()[0]

"""Notice that an init was stopped by its own job, which it then would not watch any more.

As pid 1 of its namespace an init cannot be signalled from inside; where the wrapper has a pid 1 of
its own (firejail) it has the job's user, and SIGSTOP cannot be ignored.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Final

__all__ = ["until_stopped"]

LOOK_S: Final = 0.1


async def until_stopped(pid: int) -> None:
    """Return once a process is seen to be stopped: state T, of proc_pid_stat(5)."""
    stat = Path("/proc", str(pid), "stat")
    while True:
        # Not evenly: a job could let it run just when it is looked at.
        await asyncio.sleep(random.uniform(LOOK_S / 2, LOOK_S * 1.5))
        if _state(stat) == "T":
            return


def _state(stat: Path) -> str:
    try:
        text = stat.read_text(errors="replace")
    except OSError:
        return ""  # it has ended, which its socket tells
    # The name before it may hold anything, spaces and brackets too.
    return text.rpartition(")")[2].split()[0]

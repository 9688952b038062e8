"""Watch what the jobs of a session have left running (`keepProcesses`), while none of them runs.

The kernel keeps it to the session's memory and processes; what it uses of these and of the rest
is looked at now and then. During a job all of it is counted as the job's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final, Literal

from streamer.errors import SandboxFailure
from streamer.model.job import Limits
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import FilesDoNotFit

__all__ = ["WATCH_S", "KeptProcesses", "UsedUp"]

WATCH_S: Final = 1.0
"""How often to look."""

LOOK_SHARE: Final = 10
"""A look at the workspace begins after this many times as long as the last one took."""

RAN_US: Final = 5000
"""Without so much CPU time nothing worth a look is written. That of a look itself, in which others
may have run, cannot be told from theirs: so there is another one soon, and then ever fewer."""

QUIET_S: Final = 30.0
"""A look comes after so long in any case."""


class UsedUp(Exception):
    """What jobs have left running has used more than it may."""

    def __init__(self, limit: Literal["cpu_time", "memory", "disk"]) -> None:
        super().__init__(limit)
        self.limit: Final = limit


class KeptProcesses:
    """What goes on in the sandbox of a session; it may use as much as a job."""

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._most_us = 0.0
        self._kills = 0
        self._looked_us = 0
        """The CPU time at the last look at the workspace."""
        self._looked = 0.0
        self._took = 0.0
        self._pause = WATCH_S
        """How long to wait for the next one while nothing runs."""
        self.begin()

    def begin(self) -> None:
        """Count from now on: a job has ended, and was judged by what was used in its time."""
        self._most_us = self._sandbox.cpu_time_us() + self._limits.cpu_time_s * 1e6
        self._kills = self._sandbox.memory_kills()

    @contextlib.contextmanager
    def not_counted(self) -> Iterator[None]:
        """Count no CPU time meanwhile: the init is at work for a caller, or for us."""
        before = self._sandbox.cpu_time_us()
        yield
        self._most_us += self._sandbox.cpu_time_us() - before

    def check(self) -> None:
        """Raise `UsedUp` for CPU time or memory, and `SandboxFailure` if the init is gone."""
        if self._sandbox.memory_kills() > self._kills:
            raise UsedUp("memory")
        if not self._sandbox.alive:
            raise SandboxFailure("its init has ended")
        if self._sandbox.cpu_time_us() > self._most_us:
            raise UsedUp("cpu_time")

    async def look(self) -> None:
        """As `check`, and now and then look at the workspace."""
        self.check()
        now = time.monotonic()
        quiet = self._sandbox.cpu_time_us() - self._looked_us < RAN_US
        if now < self._looked + (self._pause if quiet else LOOK_SHARE * self._took):
            return
        try:
            with self.not_counted():
                await self._sandbox.check_rest(self._limits)
        except FilesDoNotFit:
            raise UsedUp("disk") from None
        self._looked = time.monotonic()
        self._took = self._looked - now
        self._pause = min(QUIET_S, 2 * self._pause) if quiet else WATCH_S
        self._looked_us = self._sandbox.cpu_time_us()

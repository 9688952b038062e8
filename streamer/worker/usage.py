"""Measure what a job uses, once a second, while a program of it runs and somebody listens."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from streamer.bounded import within
from streamer.engine.interface import Lease, LeaseLost
from streamer.errors import SandboxFailure
from streamer.model.events import Stats, encode
from streamer.model.logfields import about
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import RunEnd

__all__ = ["UsageReports"]

log: Final = logging.getLogger(__name__)

EVERY_S: Final = 1.0
ENGINE_TIMEOUT_S: Final = 10.0


class UsageReports:
    """Close it after use."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._sandbox: Sandbox | None = None
        self._earlier_us = 0
        """The CPU time of the programs that have ended."""
        self._asked = 0
        """How often somebody has asked; 0 while nobody listens."""
        self._due = asyncio.Event()
        """Set while somebody listens and a program runs."""
        self._reporting: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Measure until nobody listens any more."""
        self._asked += 1
        self._look()
        if self._reporting is None:
            self._reporting = asyncio.create_task(self._report())

    def program_runs_in(self, sandbox: Sandbox | None) -> None:
        """Measure in this sandbox; with None not until the next program runs."""
        self._sandbox = sandbox
        self._look()

    def add(self, end: RunEnd) -> None:
        """Count what a program has used that has ended."""
        self._earlier_us += end.cpu_time_us or 0

    async def close(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.wait({self._reporting})

    def _look(self) -> None:
        if self._asked and self._sandbox is not None:
            self._due.set()
        else:
            self._due.clear()

    async def _report(self) -> None:
        loop, job = asyncio.get_running_loop(), self._lease.job
        told = about(job.job_id, job.tenant)
        while True:
            await self._due.wait()
            next_at = loop.time() + EVERY_S
            asked = self._asked
            try:
                stats = await self._measured()
                if stats is not None and not await self._told(stats) and asked == self._asked:
                    self._asked = 0
                    self._look()
            except LeaseLost:
                return
            except (SandboxFailure, OSError, TimeoutError) as error:
                # The program has just ended, or the engine cannot be reached: one less is told.
                log.debug("job %s: its use was not told: %s", job.job_id, error, extra=told)
            except Exception:
                log.exception("job %s: its use cannot be measured", job.job_id, extra=told)
                return
            await asyncio.sleep(next_at - loop.time())

    async def _measured(self) -> Stats | None:
        """Return what is used now; None if the program has ended meanwhile."""
        sandbox, earlier_us = self._sandbox, self._earlier_us
        assert sandbox is not None
        use = await sandbox.use_of_run()
        if use is None or self._sandbox is not sandbox:
            return None
        cpu_us = use.cpu_time_us
        return Stats(
            cpu_time_ms=None if cpu_us is None else (earlier_us + cpu_us) // 1000,
            memory_bytes=use.memory_bytes,
            processes=use.processes,
            t=int((time.monotonic() - self._lease.accepted_at) * 1000),
        )

    async def _told(self, stats: Stats) -> bool:
        _, data = encode(stats)
        return await within(ENGINE_TIMEOUT_S, self._lease.tell_usage(data))

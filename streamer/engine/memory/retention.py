"""Keep the logs of one process within their bounds: in memory first, then on disk, then no more.

Who appends waits here while old events go to disk, so a job that writes faster than the disk takes
is slowed and the memory stays bounded. Nothing here waits for a reader but `room`, and that only
where the policy is to lose nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Literal

from streamer.engine.memory.jobtable import JobTable, Record
from streamer.model.job import MIB

__all__ = ["Retention", "RetentionLimits"]

POLL_S: Final = 0.5
"""How often a job that waits for room looks whether other jobs have left some."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """What may be kept, in bytes.

    `memory` is for all logs and records together; `log_memory` is what one log has in memory before
    its older part goes to disk; `log` is one log altogether. `on_full` says what happens at the
    last of them, and when there is no room at all: ``drop`` forgets the oldest events, ``wait``
    holds the program until its readers have taken them.
    """

    memory: int
    log_memory: int = 4 * MIB
    log: int = 2048 * MIB
    on_full: Literal["drop", "wait"] = "drop"


class Retention:
    """The bounds of one table of jobs."""

    def __init__(self, table: JobTable, limits: RetentionLimits) -> None:
        self._table = table
        self._limits = limits
        self._relieving = asyncio.Lock()

    async def settle(self, record: Record) -> None:
        """Bring everything within its bounds after something was written to a log."""
        job_log, limits = record.log, self._limits
        if job_log.frames_bytes > limits.log_memory:
            # Some more than needed, or a job in full flow would pay for it at every append.
            await self._spill(record, job_log.frames_bytes - limits.log_memory // 2)
        if self._excess > 0:
            async with self._relieving:
                await self._relieve()
        if job_log.size_bytes > limits.log:
            up_to = job_log.taken() if limits.on_full == "wait" else None
            job_log.drop(job_log.size_bytes - limits.log, up_to)

    def full(self, record: Record) -> bool:
        """Whether the job has to wait before it writes more."""
        limits = self._limits
        if limits.on_full == "drop" or record.over:
            return False
        return record.log.size_bytes > limits.log or self._excess > 0

    async def room(self, record: Record) -> None:
        """Wait until the job may write more."""
        while self.full(record):
            await record.log.progress(POLL_S)
            await self.settle(record)

    @property
    def _excess(self) -> int:
        return self._table.ledger.memory + self._table.kept_bytes - self._limits.memory

    async def _spill(self, record: Record, size: int) -> int:
        """Move the older part of a log to disk; old jobs make room for it there."""
        while record.log.spillable_bytes:
            moved = await record.log.spill(size)
            if moved:
                self._table.spilled(record)
                return moved
            if not (self._table.drop_forgotten() or self._table.forget_oldest(on_disk=True)):
                return 0
        return 0

    async def _relieve(self) -> None:
        while (excess := self._excess) > 0:
            excess += self._limits.memory // 16
            victim = self._table.next_to_spill()
            if victim is not None and await self._spill(victim, excess):
                continue
            if self._table.drop_forgotten() or self._table.forget_oldest():
                continue
            if self._limits.on_full == "wait" or not self._drop(excess):
                return

    def _drop(self, excess: int) -> int:
        """Forget the oldest events of the largest logs."""
        dropped = 0
        for record in sorted(self._table.kept(), key=_memory, reverse=True):
            if dropped >= excess:
                break
            before = record.log.memory_bytes
            record.log.drop(excess - dropped)
            dropped += before - record.log.memory_bytes
        return dropped


def _memory(record: Record) -> int:
    return record.log.memory_bytes

"""Keep the logs of one process within their limits: move events to disk, then drop them.

An append waits here while old events go to disk, so memory stays within its limits and a job that
writes faster than the disk is slowed. Only `room` waits for readers, and only if no events may be
lost (``on_full = "wait"``).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final, Literal

from streamer.engine.memory.jobtable import JobTable, Record
from streamer.model.job import MIB

__all__ = ["Retention", "RetentionLimits"]

POLL_S: Final = 0.5
"""How often a job that waits for room checks whether other jobs have freed some."""


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """Limits in bytes.

    `memory` is for all logs and records together, `log_memory` for the part of one log in memory,
    `log` for one log in memory and on disk. `on_full` applies when a log reaches `log`, and when
    there is no room at all: ``drop`` drops the oldest events, ``wait`` holds the program until its
    readers have them.
    """

    memory: int
    log_memory: int = 4 * MIB
    log: int = 2048 * MIB
    on_full: Literal["drop", "wait"] = "drop"


class Retention:
    def __init__(self, table: JobTable, limits: RetentionLimits) -> None:
        self._table = table
        self._limits = limits
        self._waits = limits.on_full == "wait"
        self._turn = asyncio.Lock()
        self._ahead: dict[Record, asyncio.Task[None]] = {}
        """What moves events of running jobs to disk while they write on."""

    async def enforce(self, record: Record) -> None:
        """Bring everything within the limits after an append to a log."""
        events, limits = record.log, self._limits
        if events.frames_bytes > limits.log_memory or self._excess > 0:
            async with self._turn:  # afterwards the next one may have nothing to do
                if events.frames_bytes > limits.log_memory:
                    with contextlib.suppress(OSError):
                        # More than necessary, or a flood would move a little at every append.
                        size = events.frames_bytes - limits.log_memory // 2
                        record.spills_ahead = await self._spill(record, size) > 0
                while self._excess > 0 and await self._relieve(self._excess + limits.memory // 16):
                    pass
        if events.size_bytes > limits.log:
            events.drop(events.size_bytes - limits.log, self._droppable(record))

    def spill_ahead(self, record: Record) -> None:
        """Begin to move old events to disk before a log is full, so that its job need not wait.

        What is being written is still in memory, and counts.
        """
        if (
            record.log.frames_bytes > self._limits.log_memory // 2
            and record.spills_ahead
            and record not in self._ahead
        ):
            task = self._ahead[record] = asyncio.create_task(self._spill_ahead(record))
            task.add_done_callback(lambda _: self._ahead.pop(record))

    async def close(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)

    def has_room(self, record: Record, size: int) -> bool:
        """Whether everything would be within the limits after an append of `size` bytes."""
        events, limits = record.log, self._limits
        return (
            events.frames_bytes + size <= limits.log_memory
            and events.size_bytes + size <= limits.log
            and self._excess + size <= 0
        )

    def full(self, record: Record) -> bool:
        """Whether the job must wait before it writes more."""
        if not self._waits or record.over:
            return False
        return record.log.size_bytes > self._limits.log or self._excess > 0

    async def room(self, record: Record) -> None:
        await self.enforce(record)  # readers may have advanced since
        while self.full(record):
            await record.log.progress(POLL_S)
            await self.enforce(record)

    @property
    def _excess(self) -> int:
        return self._table.ledger.memory + self._table.kept_bytes - self._limits.memory

    async def _relieve(self, size: int) -> bool:
        """Free about `size` bytes of memory in the least harmful way; False if nothing may go."""
        table = self._table
        victim = table.next_to_spill()
        try:
            if victim is not None and await self._spill(victim, size):
                return True
        except OSError:
            # What is on disk may still be readable, and deleting it frees hardly any memory.
            return (
                table.drop_forgotten()
                or table.forget_oldest(on_disk=False)
                or self._drop(size, from_memory=True) > 0
                or table.forget_oldest()
            )
        return table.drop_forgotten() or table.forget_oldest() or self._drop(size) > 0

    async def _spill(self, record: Record, size: int) -> int:
        """Move the older part of a log to disk; delete old jobs there if it needs their room.

        Raises OSError if the disk fails.
        """
        while record.log.spillable_bytes:
            moved = await record.log.spill(size)
            if moved:
                self._table.spilled(record)
                return moved
            if not (self._table.drop_forgotten() or self._table.forget_oldest(on_disk=True)):
                break
        return 0

    async def _spill_ahead(self, record: Record) -> None:
        """Move events to disk, if it has room: nothing is deleted there before it must be."""
        async with self._turn:
            size = record.log.frames_bytes - self._limits.log_memory // 4
            if size > 0:
                record.spills_ahead = False  # without a disk it would be tried at each append
                with contextlib.suppress(OSError):  # `enforce` does what is to be done then
                    record.spills_ahead = await record.log.spill(size) > 0
                self._table.spilled(record)

    def _droppable(self, record: Record) -> int | None:
        """Return the last event that may be dropped; None if any may."""
        return record.log.taken() if self._waits else None

    def _drop(self, size: int, *, from_memory: bool = False) -> int:
        """Drop the oldest events of the largest logs, as far as they may be dropped.

        The oldest may be on disk. Dropping those makes room there for others; only with
        `from_memory` are newer ones dropped too until memory is free.
        """
        dropped = 0
        for record in sorted(self._table.kept(), key=_memory, reverse=True):
            if dropped >= size:
                break
            before = record.log.memory_bytes
            on_disk = record.log.disk_bytes if from_memory else 0
            record.log.drop(on_disk + size - dropped, self._droppable(record))
            dropped += before - record.log.memory_bytes
        return dropped


def _memory(record: Record) -> int:
    return record.log.memory_bytes

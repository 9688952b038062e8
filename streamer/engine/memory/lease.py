"""The lease of one job to the worker of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Literal

from streamer.engine.blobs import JobFile
from streamer.engine.interface import Cancel, Control, Eof, Input, LeaseLost, Lost
from streamer.engine.memory.inbox import Inbox
from streamer.engine.memory.jobtable import JobTable, Record
from streamer.engine.memory.retention import Retention
from streamer.model.events import TERMINAL_KINDS
from streamer.model.job import ResolvedJob

__all__ = ["MemoryLease"]

FRAMING_BYTES: Final = 512
"""More than what an event's frame, object and part of the index take besides its data."""


class MemoryLease:
    """One claimed job; see `streamer.engine.interface.Lease`.

    Signals and input are passed on once the job is compiling or running: before that there is no
    program.
    """

    def __init__(
        self,
        record: Record,
        inbox: Inbox,
        table: JobTable,
        retention: Retention,
        is_draining: Callable[[], bool],
    ) -> None:
        assert record.job is not None
        self._job = record.job
        self._attempt = record.attempt
        self._record = record
        self._inbox = inbox
        self._table = table
        self._retention = retention
        self._is_draining = is_draining
        self._ended_with: tuple[tuple[str, bytes], ...] | None = None
        """The events with which the job has ended by this lease."""

    @property
    def job(self) -> ResolvedJob:
        return self._job

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def accepted_at(self) -> float:
        return self._record.accepted_at

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Write encoded events. Raises `LeaseLost`, and ValueError for a terminal event."""
        self._check(events)
        self._table.write(self._record, events)
        await self._retention.enforce(self._record)

    def append_now(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Do the same if there is room within all limits; see `AppendNow`."""
        self._check(events)
        if not self._retention.has_room(self._record, _size(events)):
            return False
        self._table.write(self._record, events)
        self._retention.spill_ahead(self._record)
        return True

    @property
    def full(self) -> bool:
        return self._retention.full(self._record)

    async def room(self) -> None:
        await self._retention.room(self._record)

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        self._check(())
        self._table.advance(self._record, state, policy)
        self._inbox.news.set()

    async def finish(
        self, events: Sequence[tuple[str, bytes]], files: Sequence[JobFile] = ()
    ) -> bool:
        """End the job with these events and files; False if it was over or the lease was lost.

        The same call once more, as of a caller who could not wait for the first, is answered as
        that would have been. Raises ValueError unless the last of them, and no other, is terminal.
        """
        if not self._end(events, files):
            return False
        await self._retention.enforce(self._record)
        return True

    def finish_now(self, events: Sequence[tuple[str, bytes]]) -> bool | None:
        """Do the same if there is room within all limits; see `FinishNow`."""
        # While it is open a job weighs more than its record will.
        size = self._record.weight + _size(events)
        return self._end(events) if self._retention.has_room(self._record, size) else None

    def _end(self, events: Sequence[tuple[str, bytes]], files: Sequence[JobFile] = ()) -> bool:
        terminal = [kind in TERMINAL_KINDS for kind, _ in events]
        if sum(terminal) != 1 or not terminal[-1]:
            raise ValueError("Lease.finish needs exactly one terminal event, as the last one")
        if not self._held:
            return self._ended_with == tuple(events)
        self._ended_with = tuple(events)
        self._table.end(self._record, events, files)
        return True

    async def release(self, *, ran: bool = False) -> bool:
        """Let the job wait again; False if nobody could take it, or it must not run again."""
        stays = self._is_draining() or self._inbox.cancelled or self._job.session_id is not None
        if stays or not self._held:
            return False
        if not (self._table.may_run_again(self._record) if ran else not self._started):
            return False
        self._table.wait_again(self._record, "shutting_down", ran=ran)
        await self._retention.enforce(self._record)
        return True

    async def tell_usage(self, stats: bytes) -> bool:
        self._check(())
        listeners = tuple(self._record.listeners or ())
        for hear in listeners:
            hear(stats)
        return bool(listeners)

    async def control(self) -> AsyncIterator[Control]:
        """Yield requests for the job; `Lost` is the last one."""
        told = False
        while True:
            self._inbox.news.clear()
            if not self._held:
                break
            if self._inbox.cancelled and not told:
                told = True
                yield Cancel()
            elif self._started and (request := self._inbox.take_request()) is not None:
                yield request
            else:
                await self._inbox.news.wait()
        if self._ended_with is None:
            yield Lost()

    async def inputs(self) -> AsyncIterator[Input | Eof]:
        item: Input | Eof | None = None
        while not isinstance(item, Eof):
            self._inbox.news.clear()
            if not self._held:
                return
            item = self._inbox.take_input() if self._started else None
            if item is None:
                await self._inbox.news.wait()
            else:
                yield item

    @property
    def _held(self) -> bool:
        return self._record.holder is self

    @property
    def _started(self) -> bool:
        return self._record.state in ("compiling", "running")

    def _check(self, events: Sequence[tuple[str, bytes]]) -> None:
        if not self._held:
            raise LeaseLost(f"the lease of job {self._job.job_id} is over")
        if any(kind in TERMINAL_KINDS for kind, _ in events):
            raise ValueError("a terminal event ends the job: write it with Lease.finish")


def _size(events: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(data) + FRAMING_BYTES for _, data in events)

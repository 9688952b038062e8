"""The copies of logs that a node's readers follow: fed by messages, completed by reading."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from streamer.engine.redis.listener import Listener
from streamer.engine.redis.scripts import Scripts
from streamer.errors import EngineUnavailable, UnknownJob
from streamer.eventlog.frames import GAP
from streamer.eventlog.joblog import JobLog
from streamer.model.logfields import about

__all__ = ["Mirrors"]

log: Final = logging.getLogger(__name__)

PAUSE_S: Final = 0.2
"""Before a log is read again after the connection was lost."""


class _Mirror:
    """A job's events from some number on. Messages may be missing: it reads what they leave out."""

    def __init__(self, job_id: str, scripts: Scripts, most_bytes: int, after: int) -> None:
        self.job_id = job_id
        self._after = after
        """It begins after this event."""
        self.log: JobLog | None = None
        self.readers = 0
        self.gone = False
        """Whether the job was deleted before the copy was complete."""
        self._scripts = scripts
        self._most_bytes = most_bytes
        self._reading = asyncio.Lock()
        self._behind: asyncio.Task[None] | None = None
        self._missed = False
        self._early = False
        """Whether a message came that had to wait for a reading of the log."""
        self._last: tuple[str, bytes] | None = None
        """The last event that it has."""
        self._doubtful = False
        """Whether another server may answer, which has other events with the same numbers."""

    def has(self, after: int) -> bool:
        """Whether a reader of the events after a number finds in it what the server has."""
        if self.gone or self._after == 0:
            return not self.gone
        return self._after <= after and (self.log is None or self.log.first_id <= after + 1)

    def hear(self, message: bytes) -> None:
        head, *lines = message.split(b"\n")
        if self.log is None or self._doubtful:
            self._early = True
            return
        if self.log.done:
            return
        last = self.log.last_id
        if head == b"gone" or int(head) > last + 1:
            self.catch_up()
        else:
            self._take([_event(line) for line in lines[last + 1 - int(head) :]])

    def catch_up(self, *, doubtful: bool = False) -> None:
        """Read what is missing, in a task of its own."""
        self._missed = True
        self._doubtful |= doubtful
        if self._behind is None or self._behind.done():
            self._behind = asyncio.create_task(self._catch_up(), name=f"mirror-{self.job_id}")

    async def _catch_up(self) -> None:
        while self._missed:
            self._missed = False
            try:
                await self.read()
            except UnknownJob:
                self._end()
            except EngineUnavailable:
                self._missed = True
                await asyncio.sleep(PAUSE_S)
            except Exception:
                told = about(self.job_id)
                log.exception("job %s: its log cannot be read", self.job_id, extra=told)

    async def read(self) -> None:
        """Bring it to the present end of the log.

        Raises `UnknownJob`, `EngineUnavailable`.
        """
        async with self._reading:
            complete = False
            while not (complete or (self.log is not None and self.log.done)):
                self._early = False
                complete = await self._read_some() and not self._early

    async def _read_some(self) -> bool:
        new, known = self.log is None, self._last
        had = self._after if self.log is None else self.log.last_id
        asked = had if known is None else had - 1
        state, *answer = await self._scripts.call("read", self.job_id, asked, int(new))
        if state == b"unknown":
            raise UnknownJob(f"there is no job {self.job_id!r}, or not any more")
        last, begin, start, _, events = answer
        pairs = [(k.decode(), data) for k, data in zip(events[::2], events[1::2], strict=True)]
        if not new and (last < had or (start < had and pairs[had - start - 1] != known)):
            # It has gone on from an older state: others will have these numbers, or have them.
            self._end()
            return True
        self._doubtful = False
        if self.log is None:
            self.log = JobLog(first=begin + 1)
        if start > self.log.last_id:
            self.log.skip(start)
        seen = self.log.last_id - start  # by messages that came meanwhile
        self._take(pairs[seen:])
        return self.log.done or self.log.last_id >= last

    def _take(self, events: list[tuple[str, bytes]]) -> None:
        assert self.log is not None
        if events:
            self.log.append(events)
            self._last = events[-1]
            # As much as the server does, which has dropped them too, or soon will.
            if (more := self.log.size_bytes - self._most_bytes) > 0:
                self.log.drop(more + self._most_bytes // 8)

    def _end(self) -> None:
        """Tell the readers that the rest is lost, as for an expired job."""
        self.gone = True
        if self.log is not None and not self.log.done:
            data = b'{"from":%d,"to":null,"reason":"expired"}' % (self.log.last_id + 1)
            self.log.append([(GAP, data)], end=True)

    async def close(self) -> None:
        if self._behind is not None:
            self._behind.cancel()
            await asyncio.gather(self._behind, return_exceptions=True)


class Mirrors:
    """Those of one node. A copy in memory has `most_bytes` at most."""

    def __init__(self, listener: Listener, scripts: Scripts, most_bytes: int) -> None:
        self._listener = listener
        self._scripts = scripts
        self._most_bytes = most_bytes
        self._of: dict[str, list[_Mirror]] = {}
        """Usually one of a job; another, which has all of its log, where a reader begins before it.

        Never more, however many read: they are not counted against a limit.
        """

    @asynccontextmanager
    async def follow(self, job_id: str, after: int) -> AsyncIterator[JobLog]:
        async with self._mirror(job_id, after) as log:
            if after <= log.last_id or log.first_id == 1:
                yield log
                return
        # There is no such event: the view has all events, and this copy begins later.
        async with self._mirror(job_id, 0) as log:
            yield log

    @asynccontextmanager
    async def _mirror(self, job_id: str, after: int) -> AsyncIterator[JobLog]:
        mirror = self._find(job_id, after)
        mirror.readers += 1
        try:
            if mirror.log is None:
                await self._listener.subscribe(f"log:{job_id}", self._hear(job_id))
            await mirror.read()
            assert mirror.log is not None
            yield mirror.log
        finally:
            mirror.readers -= 1
            if not mirror.readers:
                await self._drop(mirror)

    def _find(self, job_id: str, after: int) -> _Mirror:
        mirrors = self._of.setdefault(job_id, [])
        for mirror in mirrors:
            if mirror.has(after):
                return mirror
        begin = 0 if mirrors else after
        mirrors.append(_Mirror(job_id, self._scripts, self._most_bytes, begin))
        return mirrors[-1]

    def _hear(self, job_id: str) -> Callable[[bytes], None]:
        def hear(message: bytes) -> None:
            for mirror in self._of.get(job_id, ()):
                mirror.hear(message)

        return hear

    async def _drop(self, mirror: _Mirror) -> None:
        mirrors = self._of[mirror.job_id]
        mirrors.remove(mirror)
        if not mirrors:
            del self._of[mirror.job_id]
            await self._listener.unsubscribe(f"log:{mirror.job_id}")
        await mirror.close()

    def catch_up(self) -> None:
        """Read all of them again: messages may have been lost, and events with another server."""
        for mirror in [mirror for mirrors in self._of.values() for mirror in mirrors]:
            mirror.catch_up(doubtful=True)

    async def settle(self) -> None:
        """Bring all of them to the present ends of their logs."""
        for mirror in [mirror for mirrors in self._of.values() for mirror in mirrors]:
            if mirror.log is not None:
                with contextlib.suppress(UnknownJob, EngineUnavailable):
                    await mirror.read()

    async def close(self) -> None:
        for mirror in [mirror for mirrors in self._of.values() for mirror in mirrors]:
            await mirror.close()


def _event(line: bytes) -> tuple[str, bytes]:
    kind, _, data = line.partition(b" ")
    return kind.decode(), data

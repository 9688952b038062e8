"""Follow what jobs use while they run: one subscription of the engine for all readers of a job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from streamer.engine.interface import Broker, Measure
from streamer.errors import UnknownJob
from streamer.eventlog.cursor import Cursor
from streamer.eventlog.frames import split_frames
from streamer.eventlog.log import EventLog
from streamer.model.events import Stats
from streamer.model.logfields import about

__all__ = ["STATS", "MeasuredSource", "UsageFeeds", "newest_stats"]

log: Final = logging.getLogger(__name__)

STATS: Final = "stats"

ASK_AGAIN_S: Final = 5.0
"""Workers, and engines, may lose what they were asked."""


class UsageFeeds:
    """What jobs use, by their ids, as long as somebody follows it."""

    def __init__(self, engine: Broker) -> None:
        self._engine = engine
        self._feeds: dict[str, _Feed] = {}

    def __len__(self) -> int:
        """Return how many jobs are followed."""
        return len(self._feeds)

    @asynccontextmanager
    async def follow(self, job_id: str) -> AsyncIterator[EventLog]:
        """Lend a log of the present: it has the newest ``stats`` only, and never ends."""
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = _Feed(self._engine, job_id)
        feed.readers += 1
        try:
            yield feed.log
        finally:
            feed.readers -= 1
            if not feed.readers:
                del self._feeds[job_id]
                await feed.close()


class _Feed:
    def __init__(self, engine: Broker, job_id: str) -> None:
        self.log = EventLog()
        self.readers = 0
        self._engine = engine
        self._job_id = job_id
        self._listening = asyncio.create_task(self._listen(), name=f"streamer-usage-{job_id}")

    async def close(self) -> None:
        self._listening.cancel()
        await asyncio.wait({self._listening})

    async def _listen(self) -> None:
        while True:
            try:
                async with self._engine.usage(self._job_id, self._hear):
                    await self._ask()
            except UnknownJob:
                return
            except Exception:
                told = about(self._job_id)
                log.exception("job %s: its use cannot be followed", self._job_id, extra=told)
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return

    async def _ask(self) -> None:
        """Ask for measurements until the job is over."""
        while await self._engine.send(self._job_id, Measure()) != "closed":  # noqa: ASYNC110 - asks again
            await asyncio.sleep(ASK_AGAIN_S)

    def _hear(self, data: bytes) -> None:
        self.log.append([(STATS, data)])
        self.log.drop_before(self.log.last_id)


class MeasuredSource:
    """The events of a job, and between them the newest ``stats``, which has no id.

    So a client's Last-Event-ID stays that of the last event of the log, and a client that is behind
    gets one of them at most.
    """

    def __init__(self, events: Cursor, usage: EventLog, newest: Cursor) -> None:
        """`newest` is a cursor of `usage`."""
        self.cursors: Sequence[Cursor] = (events, newest)
        self._events = events
        self._usage = usage
        self._newest = newest
        self._next = (events.position, newest.position)

    async def read(self) -> bytes:
        data, after = await self._events.read()
        self._next = (after, self._usage.last_id)
        # Nothing follows the last event of the job.
        if self._newest.lag and not self._events.log.done:
            data += _without_id(self._usage.newest)
        return data

    def sent(self) -> None:
        for cursor, position in zip(self.cursors, self._next, strict=True):
            if position != cursor.position:
                cursor.advance(position)

    @property
    def ended(self) -> bool:
        return self._events.at_end


def newest_stats(usage: EventLog) -> Stats:
    """Return what was measured last, as `UsageFeeds.follow` has lent it."""
    ((_, _, data, _),) = split_frames(usage.newest)
    return msgspec.json.decode(data, type=Stats)


def _without_id(frame: bytes) -> bytes:
    ((_, kind, data, _),) = split_frames(frame)
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)

"""The reading side of one job on one node: a copy of the server's log, a little behind."""

from __future__ import annotations

import asyncio

from streamer.errors import UnknownJob
from streamer.eventlog.frames import GAP, split_frames
from streamer.eventlog.joblog import JobLog
from streamer.eventlog.view import JobLogView

from .server import Server
from .wire import Wire


class Mirror:
    """A job's events after number `after`, and the task that fetches them."""

    def __init__(self, server: Server, wire: Wire, job_id: str, after: int) -> None:
        self.after = after
        self.log = JobLog(first=after + 1)
        self.readers = 0
        self.forgotten = False
        """Whether the server has deleted the job before the copy was complete."""
        self._server = server
        self._wire = wire
        self._job_id = job_id
        self._feeding = asyncio.create_task(self._feed(), name=f"mirror-{job_id}")

    async def reach(self, number: int) -> None:
        """Wait until the event with this number has arrived. Raises `UnknownJob`."""
        while self.log.last_id < number and not self.log.done:
            await self.log.wait(self.log.last_id)
        if self.forgotten:
            raise UnknownJob(f"there is no job {self._job_id!r}, or not any more")

    async def settle(self) -> None:
        """Wait until it has all events that the server has now."""
        if not self._feeding.done():
            async with self._server.subscription(self._job_id) as log:
                await self.reach(log.last_id)

    async def close(self) -> None:
        """Stop fetching."""
        self._feeding.cancel()
        await asyncio.gather(self._feeding, return_exceptions=True)

    async def _feed(self) -> None:
        while not self.log.done:
            try:
                async with self._server.subscription(self._job_id) as log:
                    await self._fetch(log)
            except ConnectionError:
                await self._wire.lag()
            except UnknownJob:
                # As for an expired job in a stream of several: the rest of its events is lost.
                self.forgotten = True
                last = self.log.last_id
                data = b'{"from":%d,"to":null,"reason":"expired"}' % (last + 1)
                self.log.append([(GAP, data)], end=True)

    async def _fetch(self, log: JobLogView) -> None:
        while not self.log.done:
            await log.wait(self.log.last_id)
            data, _ = await log.read(self.log.last_id)
            first = log.first_id
            await self._wire.lag()
            self._wire.cut()
            self._take(bytes(bytearray(data)))
            self.log.drop_before(first)

    def _take(self, batch: bytes) -> None:
        events = []
        for number, kind, data, _ in split_frames(batch):
            if kind == GAP:
                self.log.skip(number)
            else:
                events.append((kind, data))
        if events:
            self.log.append(events)

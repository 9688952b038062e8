"""The handle of one accepted job, for Python callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    asynccontextmanager,
)
from operator import index
from typing import Literal

from streamer.engine.blobs import JobFile
from streamer.engine.interface import (
    Broker,
    CancelResult,
    Eof,
    Input,
    JobView,
    Resize,
    Signal,
)
from streamer.errors import Gone, NotFound, UnknownJob
from streamer.eventlog.view import JobLogView
from streamer.jobs.terminals import check_size
from streamer.jobs.usage import UsageFeeds, newest_stats
from streamer.model.events import Complete, Error, Event, Stats
from streamer.model.job import TerminalSize
from streamer.model.typed import as_bytes, as_signal

__all__ = ["Job"]


class Job:
    """One accepted job: follow its events, send it input and signals, end it.

    All methods but `cancel` raise `UnknownJob` if there is no such job, or it has expired.
    """

    def __init__(
        self,
        engine: Broker,
        job_id: str,
        usage: UsageFeeds | None = None,
        *,
        replayed: bool = False,
    ) -> None:
        """`usage` is what all handles of one process share."""
        self._engine = engine
        self._usage = UsageFeeds(engine) if usage is None else usage
        self.id = job_id
        self.replayed = replayed
        """Whether the job existed before: the submission was repeated with its idempotency key."""

    def follow(self, after: int = 0) -> AbstractAsyncContextManager[JobLogView]:
        """Open the job's log, with the events after number `after` and all later ones."""
        return self._engine.follow(self.id, after)

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the job's events after number `after`, then live ones, up to the terminal one."""
        async with self.follow(after) as log, aclosing(log.events(after)) as events:
            async for event in events:
                yield event

    async def stats(self) -> AsyncGenerator[Stats, None]:
        """Yield what the job uses, once a second while its programs run, up to its end.

        Nothing of that is kept: it begins with what is measured next.
        """
        async with self.follow() as log, self._usage.follow(self.id) as usage:
            seen = usage.last_id
            while not log.done:
                if usage.last_id > seen:
                    seen = usage.last_id
                    yield newest_stats(usage)
                    continue
                waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                log.watch(waiter)
                usage.watch(waiter)
                try:
                    await waiter
                finally:
                    log.unwatch(waiter)
                    usage.unwatch(waiter)

    async def view(self) -> JobView:
        """Return a snapshot of the job, without its output."""
        view = await self._engine.summary(self.id)
        if view is None:
            raise UnknownJob(f"there is no job {self.id!r}")
        return view

    async def result(self) -> Complete | Error:
        """Wait for the end of the job and return its terminal event."""
        async with self.follow() as log:
            while not log.done:
                await log.wait(log.last_id)
            end = log.end
        if not isinstance(end, Complete | Error):
            raise UnknownJob(f"job {self.id!r} was forgotten before its end was read")
        return end

    async def files(self) -> Sequence[JobFile]:
        """Return the files that the job left (``artifacts``); none before it is over."""
        return await self._engine.files(self.id)

    @asynccontextmanager
    async def open_file(self, file: JobFile, *, part: range | None = None) -> AsyncIterator[int]:
        """Open one of them as an asynchronous context manager of a descriptor.

        It may be shared: read it with `os.pread`, in a thread. With `part` only these bytes need be
        there, at their places. Raises `Gone` if the job has been deleted.
        """
        async with AsyncExitStack() as opened:
            try:
                fd = await opened.enter_async_context(
                    self._engine.blobs.open(file.blob.id, part=part)
                )
            except NotFound:
                raise Gone("the file is no longer kept") from None
            yield fd

    async def purge(self) -> bool:
        """Delete the job's record, log and files; False if it is not over."""
        return await self._engine.purge(self.id)

    async def cancel(self) -> CancelResult:
        """End the job if it is queued, or ask its worker to stop it. Idempotent."""
        return await self._engine.cancel(self.id)

    async def write(
        self, data: bytes | str, *, number: int | None = None, seq: int | None = None
    ) -> Literal["accepted", "closed"]:
        """Send bytes, or text, to the program's standard input; ``closed`` if it takes none.

        Callers that may have to repeat a call pass increasing numbers, from 1: a `number` that is
        not above the last one is a repetition, and the program gets the input once. `seq` does the
        same by counting bytes: it is where the data begins in all input of the job. Raises
        `Conflict` if something before it is missing, `Busy` until the program has read earlier
        input, `TooLarge` for data that could never fit into the input buffer, and ValueError for a
        number below 1, which would be dropped, or a negative `seq`, which would lose bytes.
        """
        return await self._engine.send(self.id, Input(as_bytes(data), _at(seq)), _from_one(number))

    async def end_input(
        self, *, number: int | None = None, seq: int | None = None
    ) -> Literal["accepted", "closed"]:
        """End the program's standard input; on a terminal the end is typed (Ctrl-D)."""
        return await self._engine.send(self.id, Eof(_at(seq)), _from_one(number))

    async def resize(self, cols: int, rows: int) -> Literal["accepted", "closed"]:
        """Give the job's terminal another size; ``closed`` if it has none, or is over.

        Raises TypeError and `InvalidJob` for what no terminal has.
        """
        size = TerminalSize(index(cols), index(rows))
        check_size(size, "$")
        return await self._engine.send(self.id, Resize(size.cols, size.rows))

    async def signal(self, number: int | str) -> Literal["accepted", "closed"]:
        """Send a signal, by number or name (``SIGINT``), to the program; ``closed`` if it is over.

        Raises TypeError or ValueError for what is not a signal.
        """
        return await self._engine.send(self.id, Signal(as_signal(number)))


def _from_one(number: int | None) -> int | None:
    if number is not None and number < 1:
        raise ValueError(f"number = {number}: numbers begin with 1")
    return number


def _at(seq: int | None) -> int | None:
    if seq is not None and seq < 0:
        raise ValueError(f"seq = {seq}: the first byte is 0")
    return seq

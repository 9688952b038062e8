"""Follow and steer one accepted job from Python."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from streamer.engine.interface import CancelResult, Engine, Eof, Input, JobView, Signal
from streamer.errors import UnknownJob
from streamer.eventlog.joblog import Event, JobLog
from streamer.model.events import Complete, Error
from streamer.model.typed import as_bytes, as_signal

__all__ = ["Job"]


class Job:
    """A handle on one accepted job."""

    def __init__(self, engine: Engine, job_id: str, *, replayed: bool = False) -> None:
        self._engine = engine
        self.id = job_id
        self.replayed = replayed
        """Whether it was there before: its submission came again, with its idempotency key."""

    async def log(self) -> JobLog:
        """Return the job's log. Raises `UnknownJob` once it has expired."""
        return await self._engine.open(self.id)

    async def events(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield the job's events after number `after`, then live ones, to the terminal one."""
        async with aclosing((await self.log()).events(after)) as events:
            async for event in events:
                yield event

    async def view(self) -> JobView:
        """Return a snapshot. Raises `UnknownJob` once it has expired."""
        view = await self._engine.status(self.id)
        if view is None:
            raise UnknownJob(f"there is no job {self.id!r}")
        return view

    async def result(self) -> Complete | Error:
        """Wait for the end of the job and return its terminal event."""
        job_log = await self.log()
        while not job_log.done:
            await job_log.wait(job_log.last_id)
        end = job_log.end
        assert isinstance(end, Complete | Error)
        return end

    async def cancel(self) -> CancelResult:
        """End the job if it is queued, or ask for its end. Idempotent."""
        return await self._engine.cancel(self.id)

    async def write(self, data: bytes | str) -> Literal["accepted", "closed"]:
        """Send bytes, or text, to the program's standard input; ``closed`` when it takes none."""
        return await self._engine.send(self.id, Input(as_bytes(data)))

    async def end_input(self) -> Literal["accepted", "closed"]:
        """End the program's standard input."""
        return await self._engine.send(self.id, Eof())

    async def signal(self, number: int | str) -> Literal["accepted", "closed"]:
        """Send a signal to the program, by number or name; ``closed`` when it is over."""
        return await self._engine.send(self.id, Signal(as_signal(number)))

"""Receive requests for a running job: cancellation, signals, a size, input for its program."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from streamer.engine.interface import (
    Cancel,
    Control,
    Eof,
    Input,
    Lease,
    Lost,
    Measure,
    Resize,
    Signal,
)
from streamer.model.logfields import about
from streamer.sandbox.sandbox import Sandbox
from streamer.worker.streams import InputFeed
from streamer.worker.usage import UsageReports
from streamer.worker.verdict import StopReason

__all__ = ["JobRequests"]

log: Final = logging.getLogger(__name__)

PAUSE_S: Final = 1.0
"""How long to wait before a broken channel of the engine is opened again."""

T = TypeVar("T")


class JobRequests:
    def __init__(self, lease: Lease, stop: Callable[[StopReason], None]) -> None:
        self._lease = lease
        self._stop = stop
        self._sandbox: Sandbox | None = None
        self._signals: list[int] = []
        """Those that wait for a program, each once, as the kernel keeps pending ones: signal(7)."""
        self.signalled = False
        """Whether any has come."""
        self.feed: asyncio.Future[InputFeed] = asyncio.get_running_loop().create_future()
        """The program's input, once there is one."""
        self.usage = UsageReports(lease)
        self._size: Resize | None = None
        """The last size of its terminal that was asked for."""

    def channels(self) -> list[Coroutine[Any, Any, None]]:
        """Return the coroutines that listen until they are cancelled or the job is over.

        Input has a separate one, so that a program that does not read never delays a cancellation.
        """
        channels = [self._listen(self._lease.control, self._take_control)]
        if self._lease.job.interactive:
            channels.append(self._listen(self._inputs, self._take_input))
        return channels

    def feed_is(self, feed: InputFeed) -> None:
        """Pass input and sizes on to the program from now on."""
        self.feed.set_result(feed)
        self._resize()

    def program_runs_in(self, sandbox: Sandbox | None) -> None:
        """Pass signals on to the program in this sandbox; with None they wait for the next."""
        self._sandbox = sandbox
        self._pass_signals_on()
        self.usage.program_runs_in(sandbox)

    async def _listen(
        self, channel: Callable[[], AsyncIterator[T]], take: Callable[[T], Awaitable[None]]
    ) -> None:
        while True:
            try:
                async for item in channel():
                    await take(item)
            except Exception:
                # If it stayed broken, the job could no longer be cancelled.
                job = self._lease.job
                told = about(job.job_id, job.tenant)
                log.exception("job %s: a channel of the engine broke", job.job_id, extra=told)
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def _take_control(self, control: Control) -> None:
        match control:
            case Cancel():
                self._stop("cancelled")
            case Lost():
                self._stop("lost")
            case Signal(number):
                self.signalled = True
                if number not in self._signals:
                    self._signals.append(number)
                self._pass_signals_on()
            case Measure():
                self.usage.ask()
            case Resize():
                self._size = control
                self._resize()

    def _resize(self) -> None:
        if self._size is not None and self.feed.done():
            self.feed.result().resize(self._size.cols, self._size.rows)

    def _pass_signals_on(self) -> None:
        if self._sandbox is not None:
            while self._signals:
                self._sandbox.signal(self._signals.pop(0))

    async def _inputs(self) -> AsyncIterator[Input | Eof]:
        await asyncio.shield(self.feed)
        async for item in self._lease.inputs():
            yield item

    async def _take_input(self, item: Input | Eof) -> None:
        feed = self.feed.result()
        match item:
            case Input(data):
                await feed.write(data)
            case Eof():
                feed.end()

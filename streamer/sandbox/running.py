"""Follow one program in a sandbox to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.driver import Driver
from streamer.sandbox.meter import Meter
from streamer.sandbox.shape import KILLED_FOR_MEMORY, Cause, RunEnd

__all__ = ["Running"]


class Running:
    """A program that was started. Its futures belong to its sandbox: wait, and cancel neither."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        """The program itself has ended; what it started may go on."""
        self.ended: asyncio.Future[RunEnd] = loop.create_future()
        """Everything that it started is dead. Both fail with `SandboxFailure`."""
        self._following: asyncio.Task[None] | None = None
        self._passed: Cause | None = None

    @classmethod
    def never_began(cls, end: RunEnd) -> Running:
        """Return one that is over."""
        running = cls()
        running.exited.set_result(None)
        running.ended.set_result(end)
        return running

    @classmethod
    def follow(
        cls,
        driver: Driver,
        meter: Meter | None,
        kill: Callable[[], Awaitable[None]],
        clear: Callable[[], Awaitable[None]],
    ) -> Running:
        """Follow the program that a driver has just started.

        `kill` kills it and all that it started, `clear` does what is left of that once the driver
        says that all is over.
        """
        running = cls()
        running._following = asyncio.create_task(running._follow(driver, meter, kill, clear))
        return running

    async def close(self) -> None:
        """Follow it no longer."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        self._fail(SandboxFailure("the sandbox was closed"))

    async def _follow(
        self,
        driver: Driver,
        meter: Meter | None,
        kill: Callable[[], Awaitable[None]],
        clear: Callable[[], Awaitable[None]],
    ) -> None:
        started = time.monotonic()
        exiting = asyncio.create_task(driver.exited())
        exiting.add_done_callback(self._tell_exit)
        ending = asyncio.create_task(driver.end())
        tasks: list[asyncio.Task[Any]] = [exiting, ending]
        try:
            if meter is not None:
                passing = asyncio.create_task(meter.limit_passed())
                tasks.append(passing)
                await asyncio.wait({ending, passing}, return_when=asyncio.FIRST_COMPLETED)
                if not ending.done():
                    # What comes after the program's own end changes nothing of how it ended.
                    self._passed = None if self.exited.done() else passing.result()
                    await kill()
            try:
                end = await ending
            except SandboxFailure:
                # What no process holds (files in memory, full pipes) can fill the group, and when
                # it is the init that needs more, the kernel takes the init.
                if meter is None or not meter.out_of_memory:
                    raise
                wall_us = int((time.monotonic() - started) * 1e6)
                end = replace(KILLED_FOR_MEMORY, wall_us=wall_us)
            await clear()
            self.ended.set_result(end if meter is None else meter.judged(end, self._passed))
        except Exception as failure:  # noqa: BLE001 - told to who waits
            self._fail(failure)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _tell_exit(self, exiting: asyncio.Task[None]) -> None:
        if self.exited.done() or exiting.cancelled():
            return
        if failure := exiting.exception():
            _fail(self.exited, failure)
        else:
            self.exited.set_result(None)

    def _fail(self, failure: BaseException) -> None:
        _fail(self.exited, failure)
        _fail(self.ended, failure)


def _fail(future: asyncio.Future[Any], failure: BaseException) -> None:
    if not future.done():
        future.set_exception(failure)
        future.exception()  # retrieved here: nobody may be waiting

"""Follow one program in a sandbox to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from streamer.errors import SandboxFailure
from streamer.sandbox.drivers.driver import Driver
from streamer.sandbox.meter import Meter
from streamer.sandbox.shape import KILLED_FOR_MEMORY, Cause, RunEnd

__all__ = ["Running"]


class Running:
    """A started program. Its futures belong to its sandbox: await them, but do not cancel them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = loop.create_future()
        """Done when the program itself has ended; processes that it started may run on."""
        self.ended: asyncio.Future[RunEnd] = loop.create_future()
        """Done when everything it started is dead. Both can fail with `SandboxFailure`."""
        self._following: asyncio.Task[None] | None = None
        self._killing: asyncio.Task[None] | None = None
        self._over = False
        """Whether the driver has reported its end, or its failure."""
        self._passed: Cause | None = None

    @classmethod
    def never_began(cls, end: RunEnd) -> Running:
        """Return one that has ended without running."""
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

        `kill` kills it and everything it started; `clear` kills what may be left when the driver
        has reported its end.
        """
        running = cls()
        running._following = asyncio.create_task(running._follow(driver, meter, kill, clear))
        return running

    async def close(self) -> None:
        """Stop following; both futures fail if they are not done."""
        if self._following is not None and not self._following.done():
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
        driver.exited.add_done_callback(partial(self._tell_exit, meter))
        try:
            if meter is not None:
                meter.watch().add_done_callback(partial(self._limit_passed, kill))
            try:
                try:
                    end = await driver.end()
                finally:
                    self._over = True
            except SandboxFailure:
                # Memory without a process (files in a tmpfs, full pipes) can fill the group; if
                # the init then needs more, the kernel kills the init.
                if meter is None or not meter.out_of_memory:
                    raise
                wall_us = int((time.monotonic() - started) * 1e6)
                end = replace(KILLED_FOR_MEMORY, wall_us=wall_us)
            if self._killing is not None:
                await self._killing
            await clear()
            judged = end if meter is None else meter.judged(end, self._passed)
            if not self.exited.done():
                self.exited.set_result(None)
            self.ended.set_result(judged)
        except Exception as failure:  # noqa: BLE001 - the waiters get it
            self._fail(failure)
        finally:
            if meter is not None:
                meter.unwatch()
            if self._killing is not None:
                self._killing.cancel()
                await asyncio.gather(self._killing, return_exceptions=True)

    def _limit_passed(
        self, kill: Callable[[], Awaitable[None]], passed: asyncio.Future[Cause]
    ) -> None:
        if self._over:
            return
        failure = passed.exception()
        if failure is not None:
            self._give_up(failure)
            return
        # A limit that is passed after the program's end does not change its verdict.
        if not self.exited.done():
            self._passed = passed.result()
        self._killing = asyncio.create_task(self._kill(kill))

    async def _kill(self, kill: Callable[[], Awaitable[None]]) -> None:
        try:
            await kill()
        except Exception as failure:  # noqa: BLE001 - as above
            self._give_up(failure)

    def _give_up(self, failure: BaseException) -> None:
        self._fail(failure)
        if self._following is not None:
            self._following.cancel()

    def _tell_exit(self, meter: Meter | None, exited: asyncio.Future[Any]) -> None:
        # No failure is told yet: the kernel may have killed the init for memory, with the program.
        if exited.cancelled() or exited.exception() is not None or self.exited.done():
            return
        # A program often ends because the kernel has killed a child of it. On a busy machine we may
        # hear of the end first.
        with contextlib.suppress(OSError):  # as at the end, where it is raised
            if meter is not None and meter.out_of_memory:
                self._passed = "memory"
        self.exited.set_result(None)

    def _fail(self, failure: BaseException) -> None:
        _fail(self.exited, failure)
        _fail(self.ended, failure)


def _fail(future: asyncio.Future[Any], failure: BaseException) -> None:
    if not future.done():
        future.set_exception(failure)
        future.exception()  # marked as retrieved, since nobody may be waiting

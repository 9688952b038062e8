"""Read and write the standard streams of a command, as other filters do.

Python's own objects are not used: they are None if a descriptor is closed, and their buffers fail
once more when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from streamer.model.terminal import TerminalFilter

__all__ = ["NAMES", "Outlet", "StandardInput", "read_all"]

BLOCK_BYTES: Final = 65536
BACKGROUND_PAUSE_S: Final = 0.2
NAMES: Final = {1: "standard output", 2: "standard error"}


def read_all() -> bytes:
    """Return all of standard input. Raises `OSError`."""
    parts = []
    while part := os.read(0, BLOCK_BYTES):
        parts.append(part)
    return b"".join(parts)


class Outlet:
    """Standard output or standard error; filtered if it is a terminal, unless `raw`."""

    def __init__(self, number: int, *, raw: bool) -> None:
        self._number = number
        stream = (sys.stdout, sys.stderr)[number - 1]
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self._filter = TerminalFilter(encoding) if os.isatty(number) and not raw else None

    async def write(self, data: bytes) -> None:
        """Write all of `data` without blocking the loop. Raises `OSError` that names the stream."""
        await self._pass_on(data if self._filter is None else self._filter.feed(data))

    async def end(self) -> None:
        """Write the rest that the filter held back."""
        if self._filter is not None:
            await self._pass_on(self._filter.end())

    async def _pass_on(self, data: bytes) -> None:
        if len(data) <= select.PIPE_BUF and select.select([], [self._number], [], 0)[1]:
            self._put(data)  # there is room for all of it, so this does not block
        else:
            await _in_daemon(functools.partial(self._put, data))

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._number, rest) :]
            except BlockingIOError:
                # Another process that shares the terminal or pipe made it non-blocking.
                select.select([], [self._number], [])
            except OSError as error:
                raise OSError(error.errno, error.strerror, NAMES[self._number]) from None


async def _in_daemon(function: Callable[[], None]) -> None:
    """Run a function in a daemon thread, which the process does not wait for at exit."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def tell(problem: OSError | None) -> None:
        if not over.done():  # the waiting task may have been cancelled
            if problem is None:
                over.set_result(None)
            else:
                over.set_exception(problem)

    def work() -> None:
        problem = None
        try:
            function()
        except OSError as error:
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, problem)

    threading.Thread(target=work, daemon=True, name="streamer-output").start()
    await over


class StandardInput:
    """Standard input, read one block ahead.

    It is read in a thread, since files cannot be polled; a daemon thread, since reading from a
    terminal cannot be interrupted and must not keep the process alive.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue()
        self._wanted = threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True, name="streamer-stdin").start()

    async def block(self) -> bytes:
        self._wanted.release()
        return await self._blocks.get()

    def _read(self) -> None:
        # A process that reads from its terminal in the background is stopped by SIGTTIN. With
        # the signal blocked in this thread the read fails instead. Other threads, and programs
        # that they start, are not affected.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        data = b"-"
        while data:
            self._wanted.acquire()
            data = _read_block()
            try:
                self._loop.call_soon_threadsafe(self._blocks.put_nowait, data)
            except RuntimeError:
                return  # the loop is closed: the job is over


def _read_block() -> bytes:
    while True:
        try:
            return os.read(0, BLOCK_BYTES)
        except BlockingIOError:
            select.select([0], [], [])
        except OSError as error:
            if error.errno != errno.EIO or not _in_background():
                return b""
            time.sleep(BACKGROUND_PAUSE_S)  # until the user brings it to the foreground


def _in_background() -> bool:
    try:
        return os.tcgetpgrp(0) != os.getpgrp()
    except OSError:
        return False

"""The standard streams of a program: its output is pumped, its input written without blocking.

asyncio's own pipe transport drops its buffer before it reports that the program has closed its end,
so the number of bytes that were read would be unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import termios
from typing import Final

from streamer.model.job import Phase, ResolvedJob, Step
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.stdio import Stdio
from streamer.worker.output import OutputPump

__all__ = ["InputFeed", "connected"]

MAX_BACKLOG_BYTES: Final = 1024 * 1024
"""How much is buffered for a program that does not read; more waits in the engine."""


class InputFeed:
    """The writing end of a program's standard input, with a buffer."""

    def __init__(self, fd: int) -> None:
        """Take ownership of the writing end, which must be non-blocking."""
        self._fd = fd
        self._backlog = bytearray()
        self._written = 0
        self._unread = 0
        """The unread bytes when the pipe was closed."""
        self._ending = False
        self._watching = False
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def taken(self) -> int:
        """The number of bytes that the program has read; final once this is closed."""
        return self._written - (self._in_pipe() if self._fd >= 0 else self._unread)

    def offer(self, data: bytes) -> None:
        """Buffer any number of bytes.

        Bytes after the end, or after the program has closed its input, are dropped.
        """
        if self._fd >= 0 and not self._ending:
            self._backlog += data
            self._flush()

    async def write(self, data: bytes) -> None:
        """Buffer bytes, then wait while more than `MAX_BACKLOG_BYTES` are pending."""
        self.offer(data)
        if len(self._backlog) > MAX_BACKLOG_BYTES and self._fd >= 0:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Close the program's input once all buffered bytes are written."""
        self._ending = True
        self._flush()

    def close(self) -> None:
        """Drop pending bytes and close the pipe."""
        self._room.set()
        if self._fd >= 0:
            if self._watching:
                self._loop.remove_writer(self._fd)
            self._unread = self._in_pipe()
            os.close(self._fd)
            self._fd = -1

    def _in_pipe(self) -> int:
        answer = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(answer, sys.byteorder)

    def _flush(self) -> None:
        if self._fd < 0:
            return
        try:
            while self._backlog:
                count = os.write(self._fd, self._backlog[:65536])
                self._written += count
                del self._backlog[:count]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.close()
            return
        if len(self._backlog) <= MAX_BACKLOG_BYTES:
            self._room.set()
        if self._backlog and not self._watching:
            self._watching = True
            self._loop.add_writer(self._fd, self._flush)
        elif not self._backlog and self._watching:
            self._watching = False
            self._loop.remove_writer(self._fd)
        if self._ending and not self._backlog:
            self.close()


def connected(
    job: ResolvedJob,
    step: Step,
    sandbox: Sandbox,
    pump: OutputPump,
    held: contextlib.ExitStack,
) -> tuple[Stdio, InputFeed | None]:
    """Create the program's descriptors; return them, and the feed of its input, if it has any.

    `held` closes those that are not closed otherwise.
    """
    compiling = step.phase is Phase.COMPILE
    given = step.stdin or None if compiling else job.stdin
    interactive = job.interactive and not compiling
    with_input = given is not None or interactive
    stdio = sandbox.stdio(with_input=with_input)
    held.callback(stdio.close)
    pump.add("stdout", stdio.take("stdout"))
    pump.add("stderr", stdio.take("stderr"))
    if not with_input:
        return stdio, None
    feed = InputFeed(stdio.take("stdin"))
    held.callback(feed.close)
    feed.offer(given or b"")
    if not interactive:
        feed.end()
    return stdio, feed

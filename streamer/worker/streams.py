"""The streams of a program, or its terminal: output is pumped, input written without blocking.

asyncio's own pipe transport drops its buffer before it reports that the program has closed its end,
so the number of bytes that were read would be unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
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


END_OF_FILE: Final = b"\4"
"""What ends the input on a terminal: at the beginning of a line, or once more after its text."""


CLOSED: Final = (errno.EPIPE, errno.EIO)
"""The program has closed its end: of a pipe, of a terminal (pty(7))."""


class InputFeed:
    """The writing end of a program's standard input, or of its terminal, with a buffer."""

    def __init__(self, fd: int, *, terminal: bool = False) -> None:
        """Take ownership of the writing end, which must be non-blocking."""
        self._fd = fd
        self._terminal = terminal
        self._line_begins = True
        """Whether what was typed so far ends with a line."""
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
        """The number of bytes that the program has read; final once this is closed.

        For a terminal that of what was typed: nobody can tell what of it was read.
        """
        return self._written - (self._in_pipe() if self._fd >= 0 else self._unread)

    def offer(self, data: bytes) -> None:
        """Buffer any number of bytes.

        Bytes after the end, or after the program has closed its input, are dropped.
        """
        if self._fd >= 0 and not self._ending:
            self._backlog += data
            if data:
                self._line_begins = data.endswith((b"\n", b"\r", END_OF_FILE))
            self._flush()

    async def write(self, data: bytes) -> None:
        """Buffer bytes, then wait while more than `MAX_BACKLOG_BYTES` are pending."""
        self.offer(data)
        if len(self._backlog) > MAX_BACKLOG_BYTES and self._fd >= 0:
            self._room.clear()
            await self._room.wait()

    def end(self) -> None:
        """Close the program's input once all buffered bytes are written.

        On a terminal the end is typed; its other direction stays open.
        """
        if self._terminal:
            self.offer(END_OF_FILE if self._line_begins else 2 * END_OF_FILE)
        self._ending = True
        self._flush()

    def resize(self, cols: int, rows: int) -> None:
        """Give the terminal a size; the kernel tells the program (SIGWINCH)."""
        if self._terminal and self._fd >= 0:
            size = struct.pack("HHHH", rows, cols, 0, 0)
            with contextlib.suppress(OSError):  # the program has ended, and hung up
                fcntl.ioctl(self._fd, termios.TIOCSWINSZ, size)

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
        if self._terminal:
            return 0  # FIONREAD is about the other direction
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
        except OSError as error:
            if error.errno not in CLOSED:
                raise
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
        if self._ending and not self._backlog and not self._terminal:
            self.close()


async def connected(
    job: ResolvedJob,
    step: Step,
    sandbox: Sandbox,
    pump: OutputPump,
    held: contextlib.ExitStack,
) -> tuple[Stdio, InputFeed | None]:
    """Create the program's descriptors; return them, and the feed of its input, if it has any.

    `held` closes those that are not closed otherwise. A compiler has no terminal: its messages are
    told from the program's. Raises `SandboxFailure`.
    """
    compiling = step.phase is Phase.COMPILE
    if job.terminal is not None and not compiling:
        stdio = await sandbox.terminal(job.terminal)
        held.callback(stdio.close)
        pump.add("stdout", stdio.take("stdout"), terminal=True)
        feed = InputFeed(stdio.take("stdin"), terminal=True)
        held.callback(feed.close)
        feed.offer(job.stdin or b"")
        return stdio, feed
    given = step.stdin or None if compiling else job.stdin
    interactive = job.interactive and not compiling
    with_input = given is not None or interactive
    lively = job.output_terminal and not compiling
    stdio = (Stdio.lively if lively else sandbox.stdio)(with_input=with_input)
    held.callback(stdio.close)
    pump.add("stdout", stdio.take("stdout"), terminal=lively)
    pump.add("stderr", stdio.take("stderr"))
    if not with_input:
        return stdio, None
    feed = InputFeed(stdio.take("stdin"))
    held.callback(feed.close)
    feed.offer(given or b"")
    if not interactive:
        feed.end()
    return stdio, feed

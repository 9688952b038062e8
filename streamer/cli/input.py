"""Read standard input no further than the program has, like any command in a shell.

Input that the program leaves is for the next reader, such as the next command in a loop. In a file
the position is set back at the end. A pipe is copied with tee(2), and only what the program has
read is consumed. A terminal or a socket cannot be copied: its next block is read once the program
has read the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import stat
import sys
import termios
from collections.abc import Callable
from typing import Final, Protocol

from streamer.cli.stdio import BLOCK_BYTES, StandardInput

__all__ = ["InputSource", "input_for"]

SPLICE_F_NONBLOCK: Final = 2
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.02
"""How often to poll: nothing reports that a program has read from its pipe."""

Taken = Callable[[], int]
"""Returns how many bytes the program has read so far."""


class InputSource(Protocol):
    async def block(self) -> bytes:
        """Return the next bytes; ``b""`` at the end."""

    def leave(self) -> None:
        """Leave unread what the program has not read; called after it has ended."""


def input_for(taken: Taken) -> InputSource:
    mode = os.fstat(0).st_mode
    with contextlib.suppress(OSError):
        if stat.S_ISREG(mode):
            return _File(taken)
        if stat.S_ISFIFO(mode):
            return _Pipe(taken)
    return _Other(taken)


class _File:
    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._start = self._at = os.lseek(0, 0, os.SEEK_CUR)

    async def block(self) -> bytes:
        data = await asyncio.to_thread(os.pread, 0, BLOCK_BYTES, self._at)
        self._at += len(data)
        if not data:
            # At the end the program's pipe is closed; after that `taken` has no more answers.
            await _until_taken(self._taken, self._at - self._start)
        return data

    def leave(self) -> None:
        os.lseek(0, self._start + self._taken(), os.SEEK_SET)


class _Pipe:
    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._given = 0
        self._read = 0
        self._copies, self._copy_to = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._look()  # raises if the kernel has no tee(2)

    async def block(self) -> bytes:
        pause_s = FIRST_PAUSE_S
        while True:
            self._read_what_is_taken()
            known = self._given - self._read  # written to the program, and still in our pipe
            data = self._look()
            if data is not None and (len(data) > known or not data):
                self._given += len(data[known:])
                return data[known:]
            if known == 0:
                await _readable()
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def leave(self) -> None:
        self._read_what_is_taken()
        os.close(self._copies)
        os.close(self._copy_to)

    def _look(self) -> bytes | None:
        """Return a copy of the pipe's content; None if it is empty, ``b""`` at its end."""
        count = _libc.tee(0, self._copy_to, BLOCK_BYTES, SPLICE_F_NONBLOCK)
        if count < 0:
            error = OSError(ctypes.get_errno(), "tee")
            if isinstance(error, BlockingIOError):
                return None
            raise error
        data = b""
        while len(data) < count:
            data += os.read(self._copies, count - len(data))
        return data

    def _read_what_is_taken(self) -> None:
        taken = self._taken()
        # Another process may have read from it meanwhile, and this must not block.
        while self._read < taken and (there := _waiting()):
            self._read += len(os.read(0, min(there, taken - self._read)))


class _Other:
    def __init__(self, taken: Taken) -> None:
        self._taken = taken
        self._given = 0
        self._input = StandardInput()

    async def block(self) -> bytes:
        await _until_taken(self._taken, self._given)
        data = await self._input.block()
        self._given += len(data)
        return data

    def leave(self) -> None:
        """Do nothing: input that was read cannot be put back."""


async def _until_taken(taken: Taken, count: int) -> None:
    pause_s = FIRST_PAUSE_S
    while taken() < count:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
_libc.tee.restype = ctypes.c_ssize_t


def _waiting() -> int:
    return int.from_bytes(fcntl.ioctl(0, termios.FIONREAD, bytes(4)), sys.byteorder)


async def _readable() -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(0, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(0)

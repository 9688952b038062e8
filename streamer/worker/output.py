"""Turn what a program writes into events.

Bytes are read as they arrive and never split inside a character: each stream has an incremental
decoder. A line is passed on at once; while the event loop is busy, the pipe gathers the next ones.
Only an incomplete line waits a moment for its rest, and a program that makes very many small writes
is read less often. A terminal gives 4095 bytes at most with each read, so it is read several times.
While too many events wait for the log (`streamer.worker.outbox`) nothing is read, and the program's
writes block: this back-pressure limits the memory.
"""

from __future__ import annotations

import array
import asyncio
import base64
import codecs
import errno
import fcntl
import os
import termios
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from streamer.model.events import JobEvent, Output, PhaseName, StreamName, Truncated

__all__ = ["Budget", "OutputPump", "TextDecoder"]

REST_OF_LINE_S: Final = 0.002
"""How long to wait for the end of a line that is written in pieces (by unbuffered Python)."""

SMALL_READ: Final = 4096
"""If a read returns less, in bytes, it is worth waiting for more."""

LINE_S: Final = 0.001
"""The steady pace of small events, in seconds; those that come faster are merged."""

PIECE_S: Final = 0.008
"""The same for events that do not end with a line, such as single characters."""

BURST_S: Final = 0.016
"""How far events may run ahead of this pace: 16 lines are passed on as fast as they come."""

TERMINAL_REST: Final = 64 * 1024
"""More than a terminal holds, in bytes; how much is in it cannot be asked for."""

READ_BYTES: Final = 64 * 1024
"""An event has the bytes of one read, and less than `SMALL_READ` that were read before them.

JSON needs at most six bytes for each of them, and one client refuses lines of 512 KiB.
"""


class TextDecoder:
    """Decode UTF-8 piece by piece; invalid bytes become U+FFFD and are reported."""

    def __init__(self) -> None:
        self._rest = b""

    def decode(self, data: bytes, *, final: bool = False) -> tuple[str, bool]:
        """Return the complete text, and whether it had invalid bytes."""
        data = self._rest + data
        lossy = False
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError:
            text, used = codecs.utf_8_decode(data, "replace", final)
            lossy = True
        self._rest = data[used:]
        return text, lossy


class Budget:
    """The bytes that a job may still write, in both streams and all phases; or one of its cases."""

    def __init__(self, limit: int, whole: Budget | None = None) -> None:
        """`whole` is that of the job, out of which a case's is taken."""
        self.limit = limit
        self.taken = 0
        self.dropped: dict[StreamName, int] = {}
        self.exceeded = False
        """Whether more was written than this limit, or that of the whole, allows."""
        self._whole = whole

    def take(self, stream: StreamName, data: bytes) -> bytes:
        """Return the part of `data` that fits, and count the rest as dropped."""
        part = data[: self.limit - self.taken]
        over = len(data) - len(part)
        if self._whole is not None:
            self._whole.count_dropped(stream, over)
            part = self._whole.take(stream, part)
        self.taken += len(part)
        lost = len(data) - len(part)
        self.exceeded |= lost > 0
        self.count_dropped(stream, lost)
        return part

    def count_dropped(self, stream: StreamName, count: int) -> None:
        if count:
            self.dropped[stream] = self.dropped.get(stream, 0) + count

    @property
    def cut(self) -> bool:
        """Whether anything was dropped."""
        return bool(self.dropped)

    def truncated(self) -> list[Truncated]:
        return [Truncated(stream, count) for stream, count in self.dropped.items()]


class OutputPump:
    """Read the output of one phase, or case, to its end, from the descriptors that are added.

    `write_now` takes the events in the order of reading, or returns False if it would have to wait.
    Then `write` gets them, and nothing is read until it returns. `on_exceeded` is called once when
    the budget is used up. After that everything read is dropped, so that the program does not block
    for ever.
    """

    def __init__(
        self,
        *,
        phase: PhaseName,
        budget: Budget,
        as_base64: bool,
        elapsed_ms: Callable[[], int],
        write_now: Callable[[Sequence[JobEvent]], bool],
        write: Callable[[Sequence[JobEvent]], Awaitable[None]],
        on_exceeded: Callable[[], None],
        case: int | None = None,
    ) -> None:
        self._case = case
        self._phase: PhaseName = phase
        self._budget = budget
        self._as_base64 = as_base64
        self._elapsed_ms = elapsed_ms
        self._write_now = write_now
        self._write = write
        self._on_exceeded = on_exceeded
        self._ends: dict[int, tuple[StreamName, TextDecoder]] = {}
        self._interrupted: asyncio.Future[Sequence[JobEvent]] | None = None
        """Set when `run` has something to do: with the events for which it has to wait."""
        self._listening = False
        self._terminals: set[int] = set()
        self._flood = False
        """Whether the last event was large: then a small one is a part of the same flood."""
        self._piece = b""
        """The beginning of a line whose rest may follow, of the stream `_piece_of`."""
        self._piece_of = -1
        self._timer: asyncio.TimerHandle | None = None
        """The end of the wait for the rest of a line, or of a pause while nothing is read."""
        self._due = 0.0
        """Until when the events so far would last at the steady pace."""
        self._left: dict[int, int] | None = None

    def add(self, stream: StreamName, fd: int, *, terminal: bool = False) -> None:
        """Read a stream from its non-blocking descriptor, which is closed at the end.

        `terminal` says that it is our end of a pseudo-terminal.
        """
        self._ends[fd] = (stream, TextDecoder())
        if terminal:
            self._terminals.add(fd)

    async def run(self) -> None:
        """Pass on everything until all writing ends are closed, or until `read_rest` is done."""
        loop = asyncio.get_running_loop()
        try:
            while self._ends and self._left is None:
                self._interrupted = loop.create_future()
                self._go_on()
                if refused := await self._interrupted:
                    await self._write(refused)
            await self._read_what_is_left()
        finally:
            self._ignore()

    def hurry(self) -> None:
        """Pass on what is held back: the program has ended, though others may still write."""
        if self._piece:
            self._ready()
        elif self._timer is not None:
            self._listen()

    def read_rest(self) -> None:
        """Read what is in the pipes now, and then stop.

        Call it when everything the job started is dead: the rest of its output is in the pipes. A
        pipe that it has passed to another process outside may stay open for ever.
        """
        self._left = {
            fd: TERMINAL_REST if fd in self._terminals else _waiting_bytes(fd) for fd in self._ends
        }
        self._interrupt()

    def close(self) -> None:
        """Stop reading, and close the remaining descriptors."""
        self._ignore()
        for fd in self._ends:
            os.close(fd)
        self._ends.clear()
        self._terminals.clear()

    def _go_on(self) -> None:
        """Listen, at once or when small events are no longer ahead of their pace."""
        loop = asyncio.get_running_loop()
        ahead = self._due - loop.time() - BURST_S
        if ahead > 0:
            self._ignore()
            self._timer = loop.call_later(ahead, self._listen)
        elif not self._listening:
            self._listen()

    def _listen(self) -> None:
        self._stop_timer()
        loop = asyncio.get_running_loop()
        for fd in self._ends:
            loop.add_reader(fd, self._ready, fd)
        self._listening = True

    def _ignore(self) -> None:
        """Read nothing until `_listen`."""
        self._stop_timer()
        if self._listening:
            loop = asyncio.get_running_loop()
            for fd in self._ends:
                loop.remove_reader(fd)
        self._listening = False

    def _interrupt(self, refused: Sequence[JobEvent] = ()) -> None:
        """Stop listening, and let `run` go on: it waits for these events."""
        self._ignore()
        if self._interrupted is not None and not self._interrupted.done():
            self._interrupted.set_result(refused)

    def _ready(self, fd: int | None = None) -> None:
        """Read a stream once; None if the rest of a line did not come in time.

        Only once, so that other jobs have their turn, however much this one writes.
        """
        try:
            if self._piece and self._piece_of != fd:
                # What was written first comes first, and what is in its pipe by now may have been
                # written after what made `fd` ready.
                self._pass_on(self._piece_of, self._piece)
            if fd is not None and self._listening:
                self._read(fd)
        except Exception as error:  # noqa: BLE001 - `run` raises it; the loop would only log it
            self._ignore()
            if self._interrupted is not None and not self._interrupted.done():
                self._interrupted.set_exception(error)

    def _read(self, fd: int) -> None:
        """Read and pass on, but hold an incomplete line for `REST_OF_LINE_S`."""
        data = self._read_some(fd)
        if data is None:
            return
        whole = self._piece + data
        if data and len(whole) < SMALL_READ and not whole.endswith(b"\n"):
            if not self._piece:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(REST_OF_LINE_S, self._ready)
            self._piece, self._piece_of = whole, fd
        else:
            self._pass_on(fd, whole, ended=not data)

    def _pass_on(self, fd: int, data: bytes, *, ended: bool = False) -> None:
        """Pass on what was read, the held piece included; `run` goes on if it has to wait."""
        self._piece = b""
        self._stop_timer()
        if ended:
            asyncio.get_running_loop().remove_reader(fd)
        small = len(data) < SMALL_READ and not self._flood
        self._flood = len(data) >= SMALL_READ
        if small:
            now = asyncio.get_running_loop().time()
            self._due = max(self._due, now) + (LINE_S if data.endswith(b"\n") else PIECE_S)
        events = self._events(fd, data, ended=ended)
        if events and not self._write_now(events):
            self._interrupt(events)
        elif not self._ends:
            self._interrupt()
        elif small:
            self._go_on()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _read_what_is_left(self) -> None:
        """Read what `read_rest` has found in the pipes, or what comes to their end before."""
        while self._ends:
            for fd in sorted(self._ends, key=lambda fd: fd != self._piece_of):
                assert self._left is not None
                data = self._read_some(fd) or b""
                self._left[fd] -= len(data)
                ended = not data or self._left[fd] <= 0
                if fd == self._piece_of:
                    data, self._piece = self._piece + data, b""
                events = self._events(fd, data, ended=ended)
                if events and not self._write_now(events):
                    await self._write(events)

    def _read_some(self, fd: int) -> bytes | None:
        """Return available bytes; ``b""`` at the end, None if there are none yet."""
        data = _read_once(fd)
        while (
            data and fd in self._terminals and len(data) < READ_BYTES and (more := _read_once(fd))
        ):
            data += more
        return data

    def _events(self, fd: int, data: bytes, *, ended: bool) -> list[JobEvent]:
        """Return the events of what was read; close the descriptor at the end of its stream."""
        stream, decoder = self._ends[fd]
        exceeded = self._budget.exceeded
        events: list[JobEvent] = []
        if data:
            self._convert(stream, decoder, data, events)
        if ended:
            self._convert(stream, decoder, b"", events)
            os.close(fd)
            del self._ends[fd]
            self._terminals.discard(fd)
        if self._budget.exceeded and not exceeded:
            self._on_exceeded()
        return events

    def _convert(
        self, stream: StreamName, decoder: TextDecoder, data: bytes, events: list[JobEvent]
    ) -> None:
        final = not data
        data = self._budget.take(stream, data)
        t = self._elapsed_ms()
        if self._as_base64:
            if data:
                text = base64.b64encode(data).decode()
                events.append(
                    Output(stream, text, t, self._phase, encoding="base64", case=self._case)
                )
            return
        text, lossy = decoder.decode(data, final=final)
        if text:
            events.append(Output(stream, text, t, self._phase, lossy=lossy, case=self._case))


def _read_once(fd: int) -> bytes | None:
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:  # EIO: the other side of a terminal is closed (pty(7))
            raise
        return b""


def _waiting_bytes(fd: int) -> int:
    size = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return size[0]

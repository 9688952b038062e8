"""An append-only log of events for any number of readers.

A frame is made once, when its event is appended. A reader is a `Cursor`, an integer: the number of
the last event that it has. So a slow reader costs only its position, and resuming is a slice.

A log consists of, from the oldest:

- blocks of about `BLOCK_BYTES`, or one larger event, on disk, in a `Spool`; late readers read them
  from there;
- blocks of the same size in memory;
- the tail: the frames since the last block. The newest event is always in the tail, and never
  dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

from streamer.eventlog.block import INDEX_BYTES, Block, Ledger, following
from streamer.eventlog.cursor import Cursor
from streamer.eventlog.frames import frame, gap_frame
from streamer.eventlog.spool import WRITE_BYTES, Extent, Spool

__all__ = ["BLOCK_BYTES", "INDEX_BYTES", "SMALL_BYTES", "Cursor", "EventLog"]

BLOCK_BYTES: Final = 64 * 1024
"""One read returns less than this and one event more, so a stalled reader holds no more."""

FRAME_OVERHEAD: Final = 33
"""The memory of a `bytes` object besides its bytes; for small frames this is most of it."""

SMALL_BYTES: Final = 2048
"""A smaller tail of an ended log stays in memory: on disk it would take a page and an index."""

_last = attrgetter("last")


class EventLog:
    """Events with consecutive numbers from `first`.

    Use it on one event loop only. `ledger` counts its size together with other logs.
    """

    def __init__(
        self, *, first: int = 1, spool: Spool | None = None, ledger: Ledger | None = None
    ) -> None:
        self._spool = spool
        self._ledger = ledger or Ledger()
        self._blocks: list[Block] = []
        self._on_disk = 0
        """How many of the first blocks are on disk."""
        self._block_bytes = 0
        """The size of the frames in the other blocks."""
        self._index_bytes = 0
        self._tail: list[bytes] = []
        self._tail_first = first
        self._tail_bytes = 0
        self._memo: tuple[int, bytes] | None = None
        """The number of an event and the frames after it, which all readers in step ask for."""
        self._waiters: set[asyncio.Future[bool]] = set()
        self._listeners: set[Callable[[], None]] | None = None  # an empty set has 216 bytes
        self._telling = False
        self._cursors: set[Cursor] = set()
        self._moved: asyncio.Future[bool] | None = None
        self._retired = False
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.done = False
        self.appended_at = 0.0
        """When the newest event came, on the monotonic clock."""

    @property
    def last_id(self) -> int:
        """The number of the newest event; one less than `first` while there is none."""
        return self._tail_first + len(self._tail) - 1

    @property
    def first_id(self) -> int:
        """The number of the oldest event that is still kept."""
        return self._blocks[0].first if self._blocks else self._tail_first

    @property
    def size_bytes(self) -> int:
        """The size in memory and on disk."""
        return self.memory_bytes + self.disk_bytes

    @property
    def frames_bytes(self) -> int:
        """The size in memory without the index of blocks, which stays when they go to disk."""
        return self.memory_bytes - self._index_bytes

    @property
    def spillable_bytes(self) -> int:
        """How much `spill` could move to disk now."""
        return self._block_bytes + (self._tail_bytes if self._tail_may_go else 0)

    @property
    def newest(self) -> bytes:
        """The frame of the newest event, which is always in memory. The log must not be empty."""
        return self._tail[-1]

    def append(self, events: Sequence[tuple[str, bytes]], *, end: bool = False) -> None:
        """Number the events, pairs of name and one line of data, and wake the readers.

        A reader that has everything before gets them with one `read`, if they have `BLOCK_BYTES`
        at most. `end` ends the log. Raises RuntimeError if it has ended.
        """
        if self.done:
            raise RuntimeError("the log has ended: nothing follows the terminal event")
        # All frames first: if one event is invalid, none is kept.
        frames = [
            frame(kind, data, number)
            for number, (kind, data) in enumerate(events, self.last_id + 1)
        ]
        size = sum(map(_size, frames))
        if len(frames) > 1 and self._tail and self._tail_bytes + size > BLOCK_BYTES:
            self._seal()  # so that the batch stays together
        for made in frames:
            if self._tail_bytes >= BLOCK_BYTES:
                self._seal()  # before the append: the newest event is never in a block
            self._tail.append(made)
            self._tail_bytes += _size(made)
        self.done = end
        self.appended_at = time.monotonic()
        self._changed()
        self.wake()

    def skip(self, number: int) -> None:
        """Continue after event `number`, for a log that is fed from another which lost events.

        All events before it are dropped, even the newest: the events of a log are consecutive.
        """
        self.drop_before(self.last_id + 1)
        self._cut(len(self._tail))
        self._tail_first = max(number + 1, self._tail_first)
        self._changed()

    async def read(self, after: int) -> tuple[bytes, int]:
        """Return the next frames after event `after`, and the number of the last one.

        About `BLOCK_BYTES` at a time; empty if there is nothing new. If events are lost, a ``gap``
        frame comes first.
        """
        gap, asked = b"", after
        while True:
            if after + 1 < self.first_id:
                after = self.first_id - 1
                gap = gap_frame(asked, after)
            if after + 1 >= self._tail_first:
                return gap + self._from_tail(after), max(after, self.last_id)
            block = self._blocks[bisect_left(self._blocks, after + 1, key=_last)]
            data = block.data
            if isinstance(data, Extent):
                assert self._spool is not None
                try:
                    data = await self._spool.read(data)
                except OSError:
                    # The disk failed, perhaps only for now, or the block was dropped meanwhile.
                    # What the log keeps is not touched: other blocks, or a later read, may succeed.
                    after = block.last
                    gap = gap_frame(asked, after)
                    continue
            return gap + data[following(after, data) if after >= block.first else 0 :], block.last

    def read_now(self, after: int) -> tuple[bytes, int] | None:
        """Return all events after event `after`, as `read` does, if they are in memory and not old.

        None otherwise: `read` may have to wait.
        """
        if after + 1 < self._tail_first:
            return None
        return self._from_tail(after), max(after, self.last_id)

    async def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait for an event after number `after`, or for the end of the log.

        Returns False after `timeout_s` seconds.
        """
        if self.done or self.last_id > after:
            return True
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.watch(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            return False
        finally:
            self.unwatch(waiter)

    def watch(self, waiter: asyncio.Future[bool]) -> None:
        """Set this future at the next append. Each reader has its own and may cancel it."""
        self._waiters.add(waiter)

    def unwatch(self, waiter: asyncio.Future[bool]) -> None:
        self._waiters.discard(waiter)

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)
        self._waiters.clear()
        if self._listeners and not self._telling:
            asyncio.get_running_loop().call_soon(self._tell)  # fails in another thread
            self._telling = True

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this function soon after appends, until `unlisten`; it must not raise.

        One call follows several appends of the same moment, and all listeners are called at once:
        for a thousand of them that takes half of the time of as many futures and their callbacks.
        """
        if self._listeners is None:
            self._listeners = set()
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Undo `listen`."""
        if self._listeners is not None:
            self._listeners.discard(listener)
            self._listeners = self._listeners or None

    def _tell(self) -> None:
        self._telling = False
        for listener in tuple(self._listeners or ()):
            listener()

    @contextmanager
    def cursor(self, after: int = 0) -> Iterator[Cursor]:
        """Open a cursor. A retired log keeps its events until its last cursor is closed."""
        cursor = Cursor(self, after)
        self._cursors.add(cursor)
        self.reader_moved()
        try:
            yield cursor
        finally:
            self._cursors.discard(cursor)
            self.reader_moved()
            self._give_up()

    def taken(self, nobody: int = 0) -> int:
        """Return the position of the slowest reader, or `nobody` if there is none."""
        return min((cursor.position for cursor in self._cursors), default=nobody)

    def reader_moved(self) -> None:
        """Wake `progress`."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(True)

    async def progress(self, timeout_s: float) -> None:
        """Wait until a reader advances, comes or leaves, for at most `timeout_s` seconds."""
        if self._moved is None or self._moved.done():
            self._moved = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._moved)

    def drop(self, size: int, up_to: int | None = None) -> int:
        """Drop the oldest events, about `size` bytes; return how many bytes.

        Only up to number `up_to`, if given. The newest event always stays, so an ended log keeps
        its terminal event.
        """
        before = self.size_bytes
        most = self.last_id - 1 if up_to is None else min(up_to, self.last_id - 1)
        last, rest = self.first_id - 1, size
        for stop, length in itertools.chain(
            ((block.last, block.size) for block in self._blocks),
            zip(itertools.count(self._tail_first), map(_size, self._tail), strict=False),
        ):
            if rest <= 0 or stop > most:
                break
            last, rest = stop, rest - length
        self.drop_before(last + 1)
        return before - self.size_bytes

    def drop_before(self, number: int) -> None:
        """Drop the events before `number`; a block with later events stays whole.

        The newest event always stays.
        """
        dropped = self._blocks[: bisect_left(self._blocks, number, key=_last)]
        del self._blocks[: len(dropped)]
        self._on_disk = max(self._on_disk - len(dropped), 0)
        for block in dropped:
            self._count(block, -1)
            if isinstance(block.data, Extent):
                assert self._spool is not None
                self._spool.free(block.data)
        if not self._blocks:
            self._cut(max(min(number, self.last_id) - self._tail_first, 0))
        self._changed()

    def retire(self) -> None:
        """Free its memory and disk as soon as it has no readers."""
        self._retired = True
        self._give_up()

    async def spill(self, size: int) -> int:
        """Move the oldest frames in memory to disk, about `size` bytes; return how many.

        At most some `WRITE_BYTES` at a time. 0 if there is no room on disk. Raises OSError if the
        disk fails.
        """
        if self._spool is None:
            return 0
        size = min(size, WRITE_BYTES)
        async with self._spool.turn:  # in order, so that the blocks on disk are the oldest
            if self._tail_may_go:
                self._seal(len(self._tail) - 1)
            blocks: list[Block] = []
            pieces: list[bytes] = []
            for block in self._blocks[self._on_disk :]:
                if size <= 0 or isinstance(block.data, Extent):
                    break
                blocks.append(block)
                pieces.append(block.data)
                size -= block.size
            extents = await self._spool.write(pieces)
            moved = 0
            for block, extent in zip(blocks, extents, strict=False):
                if block.last < self.first_id:
                    self._spool.free(extent)  # dropped meanwhile
                    continue
                self._count(block, -1)
                block.data = extent
                self._count(block, 1)
                self._on_disk += 1
                moved += block.size
            self._changed()
        return moved

    @property
    def _tail_may_go(self) -> bool:
        return self.done and len(self._tail) > 1 and self._tail_bytes > SMALL_BYTES

    def _from_tail(self, after: int) -> bytes:
        if self._memo is not None and self._memo[0] == after:
            return self._memo[1]
        data = b"".join(self._tail[after + 1 - self._tail_first :])
        if data and not self.done:  # late readers are not in step
            self._changed((after, data))
        return data

    def _seal(self, count: int | None = None) -> None:
        """Join the first `count` frames of the tail, or all, into a block."""
        data = b"".join(self._tail[:count])
        first = self._tail_first
        self._cut(len(self._tail) if count is None else count)
        block = Block(first, self._tail_first - 1, len(data), data)
        self._blocks.append(block)
        self._count(block, 1)
        self._changed()

    def _cut(self, count: int) -> None:
        """Remove the first frames of the tail."""
        self._tail_bytes -= sum(map(_size, self._tail[:count]))
        self._tail_first += count
        del self._tail[:count]

    def _give_up(self) -> None:
        if self._retired and not self._cursors:
            self.drop_before(self._tail_first)

    def _count(self, block: Block, sign: int) -> None:
        self._index_bytes += sign * block.index_bytes
        if isinstance(block.data, Extent):
            self.disk_bytes += sign * block.size
            self._ledger.disk += sign * block.size
        else:
            self._block_bytes += sign * block.size

    def _changed(self, memo: tuple[int, bytes] | None = None) -> None:
        """Update the size in memory, and replace the frames that readers share."""
        self._memo = memo
        memory = self._tail_bytes + self._block_bytes + self._index_bytes
        if memo is not None:
            memory += len(memo[1])
        if self._retired and not self._cursors:
            memory = 0  # only whoever still has the log keeps its tail alive
        self._ledger.memory += memory - self.memory_bytes
        self.memory_bytes = memory


def _size(made: bytes) -> int:
    return len(made) + FRAME_OVERHEAD

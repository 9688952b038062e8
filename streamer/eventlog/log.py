"""Keep events: an append-only log that any number of readers follow.

A frame is made once, when its event is appended. A reader is a `Cursor`, which is an integer: the
number of the last event it has. So a slow reader costs nothing but itself, and resuming is a slice.
Frames that are old enough are joined into blocks of about one write; a block is in memory or in a
`Spool` on disk, and read back from there for those who come late.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Final

from streamer.eventlog.block import Block, Ledger
from streamer.eventlog.cursor import Cursor
from streamer.eventlog.frames import frame, gap_frame
from streamer.eventlog.spool import Extent, Spool

__all__ = ["BLOCK_BYTES", "INDEX_BYTES", "SMALL_BYTES", "Cursor", "EventLog"]

BLOCK_BYTES: Final = 64 * 1024
"""One read returns about this much, so that a stalled reader holds no more."""

FRAME_OVERHEAD: Final = 33
"""What a `bytes` object takes besides its bytes; small frames are mostly that."""

SMALL_BYTES: Final = 2048
"""What a log that has ended keeps in memory: on disk it would take a page, and its place here."""

INDEX_BYTES: Final = 512
"""What a block takes besides its frames, also when those are on disk: 430 bytes measured."""

NO_MEMO: Final = (-1, -1, b"")


class EventLog:
    """Events numbered densely from `first`.

    All of it runs on one event loop. What it takes is also counted in `ledger`.
    """

    def __init__(
        self, *, first: int = 1, spool: Spool | None = None, ledger: Ledger | None = None
    ) -> None:
        self._spool = spool
        self._ledger = ledger or Ledger()
        self._blocks: list[Block] = []
        self._blocks_on_disk = 0
        """How many of the first are there; others may be too."""
        self._idle_bytes = 0
        """What is in blocks in memory that are not on their way to disk."""
        self._tail: list[bytes] = []
        self._tail_first = first
        self._tail_bytes = 0
        self._waiters: set[asyncio.Future[bool]] = set()
        self._cursors: set[Cursor] = set()
        self._moved: asyncio.Future[bool] | None = None
        self._memo = NO_MEMO
        self._retired = False
        self.memory_bytes = 0
        self.disk_bytes = 0
        self.done = False

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
        """What is kept, in memory and on disk."""
        return self.memory_bytes + self.disk_bytes

    @property
    def frames_bytes(self) -> int:
        """What its frames take in memory: what is left when all blocks are on disk is small."""
        return self.memory_bytes - len(self._blocks) * INDEX_BYTES

    @property
    def newest(self) -> bytes:
        """The frame of the newest event, which is always in memory; there must be one."""
        return self._tail[-1]

    def append(self, events: Sequence[tuple[str, bytes]], *, end: bool = False) -> None:
        """Number the events, each its name and its data of one line, and wake the readers.

        Readers in step are given them by one `read`, if they take `BLOCK_BYTES` at most. `end`
        ends the log. Raises RuntimeError if it has ended.
        """
        if self.done:
            raise RuntimeError("the log has ended: nothing follows the terminal event")
        # All of them first: none is kept if one cannot be framed.
        frames = [
            frame(kind, data, number)
            for number, (kind, data) in enumerate(events, self.last_id + 1)
        ]
        if len(frames) > 1 and self._tail:
            size = sum(map(len, frames)) + len(frames) * FRAME_OVERHEAD
            if self._tail_bytes + size > BLOCK_BYTES:
                self._seal()  # so that the batch stays together
        for made in frames:
            if self._tail_bytes >= BLOCK_BYTES:
                self._seal()  # before, so that the newest event is never in a block
            self._tail.append(made)
            self._tail_bytes += len(made) + FRAME_OVERHEAD
            self._count(memory=len(made) + FRAME_OVERHEAD)
        self._forget_memo()
        self.done = end
        self.wake()

    async def read(self, after: int) -> tuple[bytes, int]:
        """Return frames that follow event `after`, ready to send, and the last one's number.

        About `BLOCK_BYTES` at a time; empty when there is nothing new. If events are gone a
        ``gap`` comes first and says which.
        """
        memo_after, memo_last, memo = self._memo
        if memo_after == after and memo_last == self.last_id:
            return memo, memo_last  # readers in step ask for the same slice: join it once
        gap = b""
        while True:
            if after + 1 < self.first_id:
                gap = gap_frame(after, self.first_id - 1)
                after = self.first_id - 1
            if after + 1 >= self._tail_first:
                break
            block = self._blocks[
                bisect.bisect(self._blocks, after + 1, key=attrgetter("first")) - 1
            ]
            data = block.data
            if data is None:
                try:
                    data = await self._from_disk(block)
                except OSError:
                    # The disk lost it; a moment ago it may also have been dropped.
                    self._drop_blocks(self._blocks.index(block) + 1 if block in self._blocks else 0)
                    continue
            return gap + block.following(after, data), block.last
        data = b"".join(self._tail[after + 1 - self._tail_first :])
        if data and not gap and not self.done:  # of those who come late none is in step
            self._forget_memo()
            self._memo = (after, self.last_id, data)
            self._count(memory=len(data))
        return gap + data, max(after, self.last_id) if data else after

    async def wait(self, after: int, timeout_s: float | None = None) -> bool:
        """Wait for an event that follows number `after`, or for the end of the log.

        Returns False when `timeout_s` seconds passed first.
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
        """Have a future set at the next append; one of each reader's own, which it may cancel."""
        self._waiters.add(waiter)

    def unwatch(self, waiter: asyncio.Future[bool]) -> None:
        """Leave a future alone from now on."""
        self._waiters.discard(waiter)

    def wake(self) -> None:
        """Wake every reader that waits."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)
        self._waiters.clear()

    @contextmanager
    def cursor(self, after: int = 0) -> Iterator[Cursor]:
        """Open a reader's place. What the log has on disk stays at least until it is closed."""
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
        """Return the number up to which every open reader has everything; `nobody` without."""
        return min((cursor.position for cursor in self._cursors), default=nobody)

    def reader_moved(self) -> None:
        """Wake `progress`."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(True)

    async def progress(self, timeout_s: float) -> None:
        """Wait until a reader has moved, come or gone, `timeout_s` seconds at most."""
        if self._moved is None or self._moved.done():
            self._moved = asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._moved)

    def drop(self, size: int, up_to: int | None = None) -> int:
        """Forget the oldest events, about `size` bytes of them; return how many bytes.

        Only those up to number `up_to`, if it is given. The newest event always stays, so that
        an ended log still tells its end.
        """
        before = self.size_bytes
        count = dropped = 0
        for block in self._blocks:
            if dropped >= size or (up_to is not None and block.last > up_to):
                break
            dropped += block.size
            count += 1
        self._drop_blocks(count)
        gone = 0
        for number, made in enumerate(
            self._tail[:-1] if not self._blocks else (), self._tail_first
        ):
            if dropped >= size or (up_to is not None and number > up_to):
                break
            dropped += len(made) + FRAME_OVERHEAD
            gone += 1
        self._drop_tail(gone)
        return before - self.size_bytes

    def drop_before(self, number: int) -> None:
        """Forget the events before `number`, by blocks, as far as they are the oldest.

        The newest event always stays.
        """
        count = sum(block.last < number for block in self._blocks)
        self._drop_blocks(count)
        if not self._blocks:
            self._drop_tail(max(min(number - self._tail_first, len(self._tail) - 1), 0))

    def retire(self) -> None:
        """Give up what it takes once nobody reads it any more."""
        self._retired = True
        self._give_up()

    @property
    def spillable_bytes(self) -> int:
        """What `spill` could move to disk now."""
        return self._idle_bytes + (self._tail_bytes if self._tail_may_go else 0)

    @property
    def _tail_may_go(self) -> bool:
        return self.done and len(self._tail) > 1 and self._tail_bytes > SMALL_BYTES

    async def spill(self, size: int) -> int:
        """Move the oldest frames in memory to disk, about `size` bytes; return how many.

        Less than could be moved means that there is no room on disk.
        """
        if self._spool is None:
            return 0
        if self._tail_may_go:
            newest = self._tail.pop()
            newest_bytes = len(newest) + FRAME_OVERHEAD
            self._tail_bytes -= newest_bytes
            self._seal()
            self._tail.append(newest)
            self._tail_bytes = newest_bytes
        chosen: list[Block] = []
        wanted = size
        # What is on disk is the oldest, so it is not walked over again and again.
        for block in itertools.islice(self._blocks, self._blocks_on_disk, None):
            if wanted <= 0:
                break
            if block.data is not None and not block.moving:
                block.moving = True
                self._idle_bytes -= block.size
                chosen.append(block)
                wanted -= block.size
        extents: list[Extent] = []
        try:
            extents = await self._spool.write([block.data for block in chosen if block.data])
        finally:
            moved = 0
            for block, extent in itertools.zip_longest(chosen, extents):
                block.moving = False
                if extent is None:
                    self._idle_bytes += block.size if block.data is not None else 0
                elif block.data is None:
                    self._spool.free(extent)  # dropped meanwhile
                else:
                    block.data, block.extent = None, extent
                    self._count(memory=-block.size, disk=block.size)
                    moved += block.size
            on_disk = itertools.islice(self._blocks, self._blocks_on_disk, None)
            self._blocks_on_disk += sum(
                1 for _ in itertools.takewhile(lambda block: block.extent is not None, on_disk)
            )
        return moved

    def _give_up(self) -> None:
        if self._retired and not self._cursors:
            self._drop_blocks(len(self._blocks))
            self._forget_memo()
            self._count(memory=-self.memory_bytes)

    async def _from_disk(self, block: Block) -> bytes:
        assert self._spool is not None
        if block.extent is None:
            raise OSError  # dropped
        return await self._spool.read(block.extent)

    def _seal(self) -> None:
        """Join the tail into a block."""
        data = b"".join(self._tail)
        last = self._tail_first + len(self._tail) - 1
        self._blocks.append(Block(self._tail_first, last, len(data), data))
        self._idle_bytes += len(data)
        self._count(memory=len(data) + INDEX_BYTES - self._tail_bytes)
        self._tail.clear()
        self._tail_first = last + 1
        self._tail_bytes = 0

    def _drop_blocks(self, count: int) -> None:
        for block in self._blocks[:count]:
            if block.extent is not None:
                assert self._spool is not None
                self._spool.free(block.extent)
                block.extent = None
                self._count(disk=-block.size)
            elif block.data is not None:
                block.data = None
                self._idle_bytes -= 0 if block.moving else block.size
                self._count(memory=-block.size)
        gone = len(self._blocks[:count])
        del self._blocks[:count]
        self._blocks_on_disk = max(self._blocks_on_disk - gone, 0)
        self._count(memory=-gone * INDEX_BYTES)
        if gone:
            self._forget_memo()

    def _drop_tail(self, count: int) -> None:
        size = sum(len(made) + FRAME_OVERHEAD for made in self._tail[:count])
        del self._tail[:count]
        self._tail_first += count
        self._tail_bytes -= size
        self._count(memory=-size)
        if count:
            self._forget_memo()

    def _forget_memo(self) -> None:
        """Let go of the copy that readers in step share until the next append."""
        self._count(memory=-len(self._memo[2]))
        self._memo = NO_MEMO

    def _count(self, *, memory: int = 0, disk: int = 0) -> None:
        self.memory_bytes += memory
        self.disk_bytes += disk
        self._ledger.memory += memory
        self._ledger.disk += disk

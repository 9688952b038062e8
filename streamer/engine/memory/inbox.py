"""Keep what the API side asks of a job until its worker takes it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from streamer.engine.interface import Eof, Input, Signal
from streamer.errors import RateLimited, TooLarge

__all__ = ["INBOX_BYTES", "Inbox", "size_of"]

INBOX_BYTES: Final = 1024 * 1024
"""How much input a job may have pending."""

ITEM_BYTES: Final = 128
"""What each item counts besides its data: two objects and its place, 113 bytes measured."""


class Inbox:
    """The input, the signals and the cancellation that wait for one job's worker."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        """Set whenever something changed; whoever waits for it clears it first."""
        self.cancelled = False
        self._inputs: deque[Input | Eof] = deque()
        self._signals: deque[Signal] = deque()
        self._size = 0
        self._ended = False

    def put(self, item: Input | Eof | Signal) -> bool:
        """Keep the item; False if it is input after the end of the input.

        Raises `Busy` when too much is pending, `TooLarge` for what would never fit.
        """
        if self._ended and not isinstance(item, Signal):
            return False
        size = size_of(item)
        if size > INBOX_BYTES:
            raise TooLarge(
                f"this piece of input has {size - ITEM_BYTES} bytes: "
                f"send pieces of at most {INBOX_BYTES - ITEM_BYTES}"
            )
        if self._size + size > INBOX_BYTES:
            raise RateLimited("the program has not read its earlier input yet: try again later")
        self._size += size
        if isinstance(item, Signal):
            self._signals.append(item)
        else:
            self._inputs.append(item)
            self._ended = isinstance(item, Eof)
        self.news.set()
        return True

    def cancel(self) -> None:
        """Ask for the end of the job."""
        self.cancelled = True
        self.news.set()

    def take_input(self) -> Input | Eof | None:
        """Return the next input, or None if there is none now."""
        if not self._inputs:
            return None
        item = self._inputs.popleft()
        self._size -= size_of(item)
        return item

    def take_signal(self) -> Signal | None:
        """Return the next signal, or None if there is none now."""
        if not self._signals:
            return None
        item = self._signals.popleft()
        self._size -= size_of(item)
        return item


def size_of(item: Input | Eof | Signal) -> int:
    """Return what an item counts."""
    match item:
        case Input(data):
            return ITEM_BYTES + len(data)
        case Signal():
            return ITEM_BYTES
        case Eof():
            return 0  # there is one at most, and a full inbox must not keep it out

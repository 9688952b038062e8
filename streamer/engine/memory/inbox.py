"""The requests and input for a job that its worker has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from streamer.engine.interface import Eof, Input, Signal
from streamer.errors import RateLimited, TooLarge

__all__ = ["INBOX_BYTES", "Inbox", "size_of"]

INBOX_BYTES: Final = 1024 * 1024
"""The limit for a job's pending input."""

ITEM_BYTES: Final = 128
"""The size of an item besides its data: two objects and its place, 113 bytes measured."""


class Inbox:
    def __init__(self) -> None:
        self.news = asyncio.Event()
        """Set whenever something has changed; clear it before waiting."""
        self.cancelled = False
        self._inputs: deque[Input | Eof] = deque()
        self._signals: deque[Signal] = deque()
        self._size = 0
        self._ended = False

    def put(self, item: Input | Eof | Signal) -> bool:
        """Keep the item; False if it is input after the end of the input.

        Raises `Busy` if too much is pending, `TooLarge` for an item that could never fit.
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
        self.cancelled = True
        self.news.set()

    def take_input(self) -> Input | Eof | None:
        if not self._inputs:
            return None
        item = self._inputs.popleft()
        self._size -= size_of(item)
        return item

    def take_signal(self) -> Signal | None:
        if not self._signals:
            return None
        item = self._signals.popleft()
        self._size -= size_of(item)
        return item


def size_of(item: Input | Eof | Signal) -> int:
    match item:
        case Input(data):
            return ITEM_BYTES + len(data)
        case Signal():
            return ITEM_BYTES
        case Eof():
            return 0  # there is at most one, and it must fit into a full inbox

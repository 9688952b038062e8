"""The requests and input for a job that its worker has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from streamer.engine.interface import Eof, Input, Resize, Signal
from streamer.errors import Conflict, RateLimited, TooLarge

__all__ = ["INBOX_BYTES", "Inbox", "Item", "Received", "size_of"]

Item = Input | Eof | Signal | Resize

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
        self._resize: Resize | None = None
        self._size = 0
        self._ended = False

    def put(self, item: Item) -> bool:
        """Keep the item; False if it is input after the end of the input.

        Raises `Busy` if too much is pending, `TooLarge` for an item that could never fit.
        """
        if isinstance(item, Resize):
            self._resize = item
            self.news.set()
            return True
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

    def take_request(self) -> Signal | Resize | None:
        if self._resize is not None:
            size, self._resize = self._resize, None
            return size
        if not self._signals:
            return None
        item = self._signals.popleft()
        self._size -= size_of(item)
        return item


class Received:
    """How much input of a job has come, which its callers may count."""

    def __init__(self) -> None:
        self._bytes = 0
        self._ended = False

    def unseen(self, item: Item) -> Item | None:
        """Return what is new of an item, by where it begins; None if it has come before.

        Raises `Conflict` if something before it is missing.
        """
        if not isinstance(item, Input | Eof) or item.at is None:
            return item
        if item.at > self._bytes:
            raise Conflict(
                f"this begins at byte {item.at}, and {self._bytes} bytes have come so far"
            )
        if isinstance(item, Eof):
            return None if self._ended else Eof()
        new = item.data[self._bytes - item.at :]
        return Input(new) if new else None

    def count(self, item: Item) -> None:
        if isinstance(item, Input):
            self._bytes += len(item.data)
        elif isinstance(item, Eof):
            self._ended = True


def size_of(item: Item) -> int:
    match item:
        case Input(data):
            return ITEM_BYTES + len(data)
        case Signal():
            return ITEM_BYTES
        case Eof() | Resize():
            return 0  # there is at most one, and it must fit into a full inbox

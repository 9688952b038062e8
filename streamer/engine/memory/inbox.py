"""The requests and input for a job that its worker has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque

from streamer.engine.interface import Eof, Input, Measure, Resize, Signal
from streamer.engine.refusals import (
    INBOX_BYTES,
    ITEM_BYTES,
    Item,
    input_full,
    input_misplaced,
    input_too_large,
    size_of,
)

__all__ = ["Inbox", "Received"]


class Inbox:
    def __init__(self) -> None:
        self.news = asyncio.Event()
        """Set whenever something has changed; clear it before waiting."""
        self.cancelled = False
        self._inputs: deque[Input | Eof] = deque()
        self._signals: deque[Signal] = deque()
        self._resize: Resize | None = None
        self._measure: Measure | None = None
        self._size = 0
        self._ended = False
        self._last_resize: Resize | None = None
        self.input_taken = False
        """Whether a worker has got any of it, not counting its end."""

    def put(self, item: Item) -> bool:
        """Keep the item; False if it is input after the end of the input.

        Raises `Busy` if too much is pending, `TooLarge` for an item that could never fit.
        """
        if isinstance(item, Resize):
            self._resize = self._last_resize = item
            self.news.set()
            return True
        if isinstance(item, Measure):
            self._measure = item
            self.news.set()
            return True
        if self._ended and not isinstance(item, Signal):
            return False
        size = size_of(item)
        if size > INBOX_BYTES:
            raise input_too_large(size - ITEM_BYTES)
        if self._size + size > INBOX_BYTES:
            raise input_full()
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

    def begin_again(self) -> None:
        """Take note that another worker will have the job: it needs the size and the end, too."""
        self._resize = self._last_resize
        if self._ended and not self._inputs:
            self._inputs.append(Eof())
        self.news.set()

    def take_input(self) -> Input | Eof | None:
        if not self._inputs:
            return None
        item = self._inputs.popleft()
        self.input_taken = self.input_taken or isinstance(item, Input)
        self._size -= size_of(item)
        return item

    def take_request(self) -> Signal | Resize | Measure | None:
        if self._resize is not None:
            size, self._resize = self._resize, None
            return size
        if self._measure is not None:
            measure, self._measure = self._measure, None
            return measure
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

        Raises `Conflict` if something before it is missing, or if the end is before what has come.
        """
        if not isinstance(item, Input | Eof) or item.at is None:
            return item
        ends_before = isinstance(item, Eof) and item.at < self._bytes and not self._ended
        if item.at > self._bytes or ends_before:
            does = "ends" if ends_before else "begins"
            raise input_misplaced(does, item.at, self._bytes)
        if isinstance(item, Eof):
            return None if self._ended else Eof()
        new = item.data[self._bytes - item.at :]
        return Input(new) if new else None

    def count(self, item: Item) -> None:
        if isinstance(item, Input):
            self._bytes += len(item.data)
        elif isinstance(item, Eof):
            self._ended = True

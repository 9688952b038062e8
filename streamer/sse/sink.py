"""What an application pushes events into, whether one client reads it or many."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from streamer.eventlog.frames import Serializer, check_event, data_value

__all__ = ["Batch", "EventSink"]


class Batch:
    """Events that are sent together; see `EventSink.batch`."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self.events: list[tuple[str, bytes]] = []

    def push(self, data: Any, event: str = "message") -> None:
        """Add an event. Raises ValueError for a name that no event may have."""
        name = check_event(event)
        self.events.append((name, data_value(self._serializer(data))))


class EventSink(ABC):
    """What events can be pushed to: a `Channel` or a `PushSession`.

    Data is turned into text once, by `serializer`, for however many clients. An event's name is
    anything without CR, LF and NUL but ``gap``, which is what a client is told of lost events by.
    """

    def __init__(self, serializer: Serializer) -> None:
        self.serializer = serializer

    def push(self, data: Any, event: str = "message") -> int:
        """Send an event and return its id.

        Raises ValueError for a name that no event may have, RuntimeError after the end.
        """
        with self.batch() as batch:
            batch.push(data, event)
        return self.last_id

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect events; they are sent at the end of the block, and none of them if it raises.

        With one write, if they take 64 KiB at most.
        """
        batch = Batch(self.serializer)
        yield batch
        self._send(batch.events)

    async def iterate(
        self, source: Iterable[Any] | AsyncIterable[Any], event: str = "iteration"
    ) -> None:
        """Push what an iterable gives. A slow client slows it, but none of a channel's does."""
        async with aclosing(_each(source)) as items:
            async for item in items:
                self.push(item, event)
                await self._room()

    async def stream(
        self, chunks: Iterable[bytes] | AsyncIterable[bytes], event: str = "stream"
    ) -> None:
        """Push the text of a stream of bytes; a character that two chunks share stays whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with aclosing(_each(chunks)) as pieces:
            async for chunk in pieces:
                if text := decoder.decode(chunk):
                    self.push(text, event)
                    await self._room()
        if text := decoder.decode(b"", final=True):
            self.push(text, event)

    @property
    @abstractmethod
    def last_id(self) -> int:
        """The id of the newest event."""

    @abstractmethod
    def _send(self, events: Sequence[tuple[str, bytes]]) -> None: ...

    @abstractmethod
    async def _room(self) -> None: ...


async def _each(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item

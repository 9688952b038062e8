"""The interface to push events, shared by `Channel` (many clients) and `PushSession` (one)."""

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
        """Add an event; it has no id yet.

        Raises ValueError for an invalid event name, and what the serializer raises (TypeError,
        ValueError); then the event is left out.
        """
        name = check_event(event)
        self.events.append((name, data_value(self._serializer(data))))


class EventSink(ABC):
    """Takes events: a `Channel` or a `PushSession`.

    `serializer` turns data into text once for all clients. An event's name must not contain CR, LF
    or NUL, and must not be ``gap``, which reports lost events to a client.
    """

    def __init__(self, serializer: Serializer) -> None:
        self.serializer = serializer

    def push(self, data: Any, event: str = "message") -> int:
        """Send an event and return its id, a number that grows by one.

        Never waits. Raises ValueError for an invalid event name, what the serializer raises,
        RuntimeError after `close`, and in a `PushSession` ConnectionResetError once the client is
        gone.
        """
        with self.batch() as batch:
            batch.push(data, event)
        return self.last_id

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Collect events and send them at the end of the block, or none if it raises.

        Up to 64 KiB are sent with one write.
        """
        batch = Batch(self.serializer)
        yield batch
        self._send(batch.events)

    async def iterate(
        self, source: Iterable[Any] | AsyncIterable[Any], event: str = "iteration"
    ) -> None:
        """Push each item. In a `PushSession` a slow client slows this down; in a `Channel` not."""
        async with aclosing(_each(source)) as items:
            async for item in items:
                self.push(item, event)
                await self._room()

    async def stream(
        self, chunks: Iterable[bytes] | AsyncIterable[bytes], event: str = "stream"
    ) -> None:
        """Push a stream of bytes as text; a character that is split between chunks stays whole."""
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

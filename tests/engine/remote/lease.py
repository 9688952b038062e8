"""A lease on the worker's side of the connection."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar

from streamer.engine.blobs import JobFile
from streamer.engine.interface import (
    Cancel,
    Control,
    Eof,
    Input,
    LeaseLost,
    Lost,
    Measure,
    Resize,
    Signal,
)
from streamer.model.job import ResolvedJob

from .server import Items, SentItem, SentLease, Server
from .wire import Wire

R = TypeVar("R")


class RemoteLease:
    """See `streamer.engine.interface.Lease`.

    Each write has a number; a repetition, because the answer was lost, has the same number.
    """

    full = False

    def __init__(self, server: Server, wire: Wire, sent: SentLease) -> None:
        self._server = server
        self._wire = wire
        self.token = sent.token
        self.job: ResolvedJob = sent.job
        self.attempt = sent.attempt
        self.accepted_at = time.monotonic() - sent.age_s
        self._number = 0
        self._unanswered: tuple[object, ...] | None = None
        self._taken: dict[Items, int] = {"control": 0, "inputs": 0}

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        await self._write(self._server.append, list(events))

    async def room(self) -> None:
        """Return at once: a program cannot be held for readers in other processes."""

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        await self._write(self._server.state, state, policy)

    async def finish(
        self, events: Sequence[tuple[str, bytes]], files: Sequence[JobFile] = ()
    ) -> bool:
        try:
            return await self._write(self._server.finish, list(events), list(files))
        except LeaseLost:
            return False

    async def release(self, *, ran: bool = False) -> bool:
        return await self._wire.ask(self._server.release, self.token, int(ran))

    async def tell_usage(self, stats: bytes) -> bool:
        return await self._wire.ask(self._server.tell_usage, self.token, stats)

    async def control(self) -> AsyncIterator[Control]:
        async for item in self._items("control"):
            assert isinstance(item, Cancel | Signal | Resize | Measure | Lost)
            yield item

    async def inputs(self) -> AsyncIterator[Input | Eof]:
        async for item in self._items("inputs"):
            assert isinstance(item, Input | Eof)
            yield item

    async def _write(self, method: Callable[..., Coroutine[Any, Any, R]], *what: object) -> R:
        said = (method.__name__, *what)
        if said != self._unanswered:
            self._number += 1
            self._unanswered = said
        answer = await self._wire.ask(method, self.token, self._number, *what)
        self._unanswered = None
        return answer

    async def _items(self, kind: Items) -> AsyncIterator[object]:
        while True:
            sent: SentItem | None = await self._wire.ask(
                self._server.next_item, self.token, kind, self._taken[kind]
            )
            if sent is None:
                return
            self._taken[kind] = sent.number
            yield sent.item()

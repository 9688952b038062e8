"""The claims of one worker: jobs claimed by a lost or cancelled call are not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from streamer.engine.interface import Lease
from streamer.model.capabilities import Accepts
from streamer.model.events import Error, encode

from .lease import RemoteLease
from .server import SentLease, Server
from .wire import Wire

END = encode(Error("shutting_down", "the service stopped before the job was over"))


class Claims:
    """A claim whose answer was lost is repeated with the same number."""

    def __init__(self, server: Server, wire: Wire, worker: str) -> None:
        self._server = server
        self._wire = wire
        self._worker = worker
        self._number = 0
        self._answered = True
        self._left: list[RemoteLease] = []
        self._ending: asyncio.Task[None] | None = None
        self.waiting = False
        """Whether the worker waits for an answer."""

    async def claim(self, free: int, accepts: Accepts | None) -> Sequence[Lease]:
        """Return the jobs of the unanswered claim, otherwise those of a new one."""
        self.waiting = True
        try:
            again = not self._answered
            if not self._left:
                await self._claim(free, accepts)
            if again and not self._left:
                await self._claim(free, accepts)
        finally:
            self.waiting = False
        leases, self._left = self._left[:free], self._left[free:]
        return leases

    async def _claim(self, free: int, accepts: Accepts | None) -> None:
        if self._answered:
            self._number += 1
            self._answered = False
        self._take(
            await self._wire.ask(self._server.claim, self._worker, self._number, free, accepts)
        )

    def _take(self, sent: Sequence[SentLease]) -> None:
        self._answered = True
        self._left += [RemoteLease(self._server, self._wire, one) for one in sent]

    def end(self) -> None:
        """End the claimed jobs that the worker will no longer fetch."""
        if self._ending is None or self._ending.done():
            self._ending = asyncio.create_task(self._end())

    async def ended(self) -> None:
        """Wait for it."""
        if self._ending is not None:
            await self._ending

    async def _end(self) -> None:
        if not self._answered:
            claim = self._server.claim
            self._take(await self._wire.call(claim, self._worker, self._number, 0, None))
        for lease in self._left:
            await self._wire.call(self._server.finish, lease.token, 1, [END], [])
        self._left.clear()

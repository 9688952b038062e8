"""The remote side: a memory engine, and the answers for calls that may be repeated."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from streamer.engine.blobs import JobFile
from streamer.engine.interface import (
    Cancel,
    CancelResult,
    Eof,
    Idempotency,
    Input,
    JobPlace,
    JobState,
    JobView,
    Lease,
    LeaseLost,
    Lost,
    Measure,
    OwnQueue,
    Resize,
    Signal,
    Stats,
    Submitted,
)
from streamer.engine.memory.engine import MemoryEngine
from streamer.eventlog.view import JobLogView
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.job import ResolvedJob

from .blobs import BlobServer
from .sessions import SessionServer
from .views import SentView
from .webhooks import WebhookServer
from .wire import CALLER, carried

Items = Literal["control", "inputs"]


PLAIN: dict[str, type[Cancel | Lost | Measure]] = {
    kind.__name__: kind for kind in (Cancel, Lost, Measure)
}
"""What has no data."""


class SentItem(msgspec.Struct):
    """An encoded item for a job's worker, with its number in the channel."""

    number: int
    kind: str
    data: bytes = b""
    signal: int = 0
    at: int | None = None
    size: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, number: int, item: object) -> SentItem:
        return cls(
            number,
            type(item).__name__,
            item.data if isinstance(item, Input) else b"",
            item.number if isinstance(item, Signal) else 0,
            item.at if isinstance(item, Input | Eof) else None,
            (item.cols, item.rows) if isinstance(item, Resize) else (0, 0),
        )

    def item(self) -> Cancel | Lost | Signal | Resize | Measure | Input | Eof:
        if self.kind in PLAIN:
            return PLAIN[self.kind]()
        match self.kind:
            case "Signal":
                return Signal(self.signal)
            case "Input":
                return Input(self.data, self.at)
            case "Resize":
                return Resize(*self.size)
        return Eof(self.at)


class SentLease(msgspec.Struct):
    """An encoded lease: its token, and how long ago its job was accepted."""

    token: str
    job: ResolvedJob
    age_s: float
    attempt: int


class _Channel:
    """Returns one item after another, and repeats each until the next is requested."""

    def __init__(self, source: AsyncIterator[object]) -> None:
        self._source = source
        self._number = 0
        self._next: asyncio.Future[SentItem | None] | None = None

    async def after(self, number: int) -> SentItem | None:
        if self._next is None or number == self._number:
            self._number = number + 1
            self._next = asyncio.ensure_future(self._item(self._number))
        return await asyncio.shield(self._next)

    async def _item(self, number: int) -> SentItem | None:
        item = await anext(self._source, None)
        return None if item is None else SentItem.of(number, item)


class _Held:
    """One lease, the number of the last write to it, and the answer to that."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.channels = {"control": _Channel(lease.control()), "inputs": _Channel(lease.inputs())}
        self.writing = asyncio.Lock()
        self.number = 0
        self.answer: bool | None = None


class Server:
    """Each coroutine is one remote call, and safe to repeat as `interface` requires.

    It is closed with the last of its nodes.
    """

    def __init__(
        self,
        engine: MemoryEngine,
        *,
        clock: Callable[[], float] = time.monotonic,
        nodes: int = 1,
    ) -> None:
        self.engine = engine
        self.blobs = BlobServer(engine.blobs)
        self.sessions = SessionServer(engine.sessions)
        self.webhooks = WebhookServer(engine.webhooks)
        self.heartbeat_s = engine.heartbeat_s
        self._nodes = nodes
        self._started = False
        self._drained: set[object] = set()
        self._left: set[object] = set()
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._claims: dict[tuple[object, str], tuple[int, asyncio.Future[list[SentLease]]]] = {}
        self._ended: defaultdict[object, list[JobView]] = defaultdict(list)
        engine.listen(self._hear)

    async def start(self, folder: Path) -> None:
        if not self._started:
            self._started = True
            await self.engine.start(folder)

    def ended(self, caller: object) -> list[JobView]:
        """Return the jobs that a node's calls have ended and that were not reported to it yet."""
        return [carried(SentView.of(view)).view() for view in self._ended.pop(caller, ())]

    def _hear(self, view: JobView) -> None:
        self._ended[CALLER.get(None)].append(view)

    # -- for jobs -----------------------------------------------------------------------

    async def submit(
        self, job: ResolvedJob, tenant: str, idempotency: Idempotency | None
    ) -> Submitted:
        return await self.engine.submit(job, tenant=tenant, idempotency=idempotency)

    async def repeated(self, tenant: str, idempotency: Idempotency) -> str | None:
        return await self.engine.repeated(idempotency, tenant=tenant)

    async def last_id(self, job_id: str) -> int:
        async with self.engine.follow(job_id) as log:
            return log.last_id

    @asynccontextmanager
    async def subscription(self, job_id: str) -> AsyncGenerator[JobLogView, None]:
        """Lend the log itself: its reader transfers what it reads."""
        async with self.engine.follow(job_id) as log:
            yield log

    @asynccontextmanager
    async def usage(self, job_id: str, hear: Callable[[bytes], None]) -> AsyncGenerator[None, None]:
        async with self.engine.usage(job_id, hear):
            yield

    async def summary(self, job_id: str) -> SentView | None:
        view = await self.engine.summary(job_id)
        return None if view is None else SentView.of(view)

    async def jobs(
        self, tenant: str, state: JobState | None, limit: int, before: JobPlace | None
    ) -> list[SentView]:
        views = await self.engine.jobs(tenant=tenant, state=state, limit=limit, before=before)
        return [SentView.of(view) for view in views]

    async def cancel(self, job_id: str) -> CancelResult:
        return await self.engine.cancel(job_id)

    async def send(
        self, job_id: str, item: SentItem, number: int | None
    ) -> Literal["accepted", "closed"]:
        control = item.item()
        assert isinstance(control, Input | Eof | Signal | Resize | Measure)
        return await self.engine.send(job_id, control, number)

    async def purge(self, job_id: str) -> bool:
        return await self.engine.purge(job_id)

    async def files(self, job_id: str) -> list[JobFile]:
        return list(await self.engine.files(job_id))

    async def capabilities(self) -> list[Capabilities]:
        return list(await self.engine.capabilities())

    async def secret(self, name: str) -> bytes:
        return await self.engine.secret(name)

    async def stats(self) -> Stats:
        return await self.engine.stats()

    async def own_queue(self, tenant: str) -> OwnQueue:
        return await self.engine.own_queue(tenant)

    async def ready(self) -> bool:
        return await self.engine.ready()

    async def drain(self) -> None:
        self._drained.add(CALLER.get())
        if len(self._drained) == self._nodes:
            await self.engine.drain()

    async def close(self) -> None:
        self._left.add(CALLER.get())
        if len(self._left) == self._nodes:
            await self.engine.close()

    # -- for workers --------------------------------------------------------------------

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        await self.engine.publish(worker, capabilities)

    async def claim(
        self, worker: str, number: int, free: int, accepts: Accepts | None
    ) -> list[SentLease]:
        last, claiming = self._claims.get((CALLER.get(), worker), (0, None))
        if claiming is None or last != number:
            claiming = asyncio.ensure_future(self._claim(worker, free, accepts))
            self._claims[CALLER.get(), worker] = (number, claiming)
        return await asyncio.shield(claiming)

    async def _claim(self, worker: str, free: int, accepts: Accepts | None) -> list[SentLease]:
        sent = []
        for lease in await self.engine.claim(worker, free, accepts):
            token = secrets.token_hex(4)
            self._held[token] = _Held(lease)
            age_s = self._clock() - lease.accepted_at
            sent.append(SentLease(token, lease.job, age_s, lease.attempt))
        return sent

    async def heartbeat(self, tokens: list[str]) -> list[tuple[str, Literal["cancel", "lost"]]]:
        told: list[tuple[str, Literal["cancel", "lost"]]] = []
        for token in tokens:
            if (held := self._held.get(token)) is None:
                told.append((token, "lost"))
                continue
            for _, what in await self.engine.heartbeat([held.lease]):
                told.append((token, "cancel" if isinstance(what, Cancel) else "lost"))
        return told

    async def reap(self) -> int:
        return await self.engine.reap()

    async def append(self, token: str, number: int, events: list[tuple[str, bytes]]) -> None:
        held = self._get(token)
        await self._once(held, number, lambda: held.lease.append(events))

    async def tell_usage(self, token: str, stats: bytes) -> bool:
        return await self._get(token).lease.tell_usage(stats)

    async def state(
        self,
        token: str,
        number: int,
        state: Literal["preparing", "compiling", "running"],
        policy: str | None,
    ) -> None:
        held = self._get(token)
        await self._once(held, number, lambda: held.lease.state(state, policy))

    async def finish(
        self, token: str, number: int, events: list[tuple[str, bytes]], files: list[JobFile]
    ) -> bool:
        held = self._get(token)
        return bool(await self._once(held, number, lambda: held.lease.finish(events, files)))

    async def release(self, token: str, ran: int) -> bool:
        held = self._held.get(token)
        return held is not None and await held.lease.release(ran=bool(ran))

    async def next_item(self, token: str, kind: Items, after: int) -> SentItem | None:
        """Wait for the item after number `after`, which the caller has thereby acknowledged."""
        held = self._held.get(token)
        return None if held is None else await held.channels[kind].after(after)

    def _get(self, token: str) -> _Held:
        try:
            return self._held[token]
        except KeyError:
            raise LeaseLost("there is no such lease") from None

    async def _once(
        self, held: _Held, number: int, write: Callable[[], Coroutine[Any, Any, bool | None]]
    ) -> bool | None:
        """Do a write with a new number; a repetition of the last one gets the same answer."""
        async with held.writing:
            if number != held.number:
                held.answer = await write()
                held.number = number
            return held.answer

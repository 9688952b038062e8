"""The engine of a service: in memory, but like a remote one in behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

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
    Lost,
    Measure,
    OwnQueue,
    Resize,
    Signal,
    Stats,
    Submitted,
)
from streamer.eventlog.joblog import JobLog
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.job import ResolvedJob

from .blobs import RemoteBlobs
from .claims import Claims
from .lease import RemoteLease
from .mirror import Mirror
from .rates import RemoteRates
from .server import SentItem, Server
from .sessions import RemoteSessions
from .webhooks import RemoteWebhooks
from .wire import Wire

log: Final = logging.getLogger(__name__)


class RemoteEngine:
    """See `streamer.engine.interface.Engine`."""

    alone = False

    def __init__(self, server: Server, wire: Wire) -> None:
        self._server = server
        self._wire = wire
        self.blobs = RemoteBlobs(server.blobs, wire)
        self.sessions = RemoteSessions(server.sessions, wire)
        self.webhooks = RemoteWebhooks(server.webhooks, wire)
        self.rates = RemoteRates(server.engine.rates, wire)
        self._hear: Callable[[JobView], None] = lambda _: None
        self._mirrors: dict[str, Mirror] = {}
        self._all_mirrors: set[Mirror] = set()
        self._claims: dict[str, Claims] = {}
        self._draining = False
        wire.on_answer = self._tell_ended

    async def start(self, folder: Path) -> None:
        await self._server.start(folder)

    def listen(self, hear: Callable[[JobView], None]) -> None:
        self._hear = hear

    def _tell_ended(self) -> None:
        for view in self._server.ended(self._wire):
            try:
                self._hear(view)
            except Exception:
                log.exception("job %s: the listener for finished jobs failed", view.job.job_id)

    # -- for jobs -----------------------------------------------------------------------

    async def submit(
        self,
        job: ResolvedJob,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Submitted:
        return await self._wire.call(self._server.submit, job, tenant, idempotency)

    async def repeated(self, idempotency: Idempotency, *, tenant: str = "") -> str | None:
        return await self._wire.call(self._server.repeated, tenant, idempotency)

    @asynccontextmanager
    async def follow(self, job_id: str, after: int = 0) -> AsyncIterator[JobLog]:
        last = await self._wire.call(self._server.last_id, job_id)
        # The newest event shows whether the job is over, so every mirror has at least that one.
        mirror = self._mirror(job_id, min(after, last - 1) if after <= last else 0)
        mirror.readers += 1
        try:
            await mirror.reach(last)
            yield mirror.log
        finally:
            mirror.readers -= 1
            if not mirror.readers:
                self._all_mirrors.discard(mirror)
                if self._mirrors.get(job_id) is mirror:
                    del self._mirrors[job_id]
                await mirror.close()

    def _mirror(self, job_id: str, after: int) -> Mirror:
        """Return a mirror with all events after number `after`: the job's, or a second one."""
        mirror = self._mirrors.get(job_id)
        if mirror is None or mirror.after > after or mirror.forgotten:
            mirror = self._mirrors[job_id] = Mirror(self._server, self._wire, job_id, after)
            self._all_mirrors.add(mirror)
        return mirror

    async def settle(self) -> None:
        """Wait until every mirror has all events that the server has now."""
        for mirror in tuple(self._all_mirrors):
            await mirror.settle()

    async def summary(self, job_id: str) -> JobView | None:
        sent = await self._wire.call(self._server.summary, job_id)
        return None if sent is None else sent.view()

    async def jobs(
        self,
        *,
        tenant: str,
        state: JobState | None = None,
        limit: int = 50,
        before: JobPlace | None = None,
    ) -> Sequence[JobView]:
        sent = await self._wire.call(self._server.jobs, tenant, state, limit, before)
        return tuple(view.view() for view in sent)

    async def cancel(self, job_id: str) -> CancelResult:
        return await self._wire.call(self._server.cancel, job_id)

    @asynccontextmanager
    async def usage(self, job_id: str, hear: Callable[[bytes], None]) -> AsyncIterator[None]:
        """Pass on what arrives, a little later; some of it is lost."""
        arriving: asyncio.Queue[bytes] = asyncio.Queue()
        await self._wire.lag()
        async with self._server.usage(job_id, arriving.put_nowait):
            passing = asyncio.create_task(self._pass_on(arriving, hear))
            try:
                yield
            finally:
                passing.cancel()
                await asyncio.wait({passing})

    async def _pass_on(self, arriving: asyncio.Queue[bytes], hear: Callable[[bytes], None]) -> None:
        while True:
            data = await arriving.get()
            await self._wire.lag()
            with contextlib.suppress(ConnectionError):
                self._wire.cut()
                hear(bytes(bytearray(data)))

    async def send(
        self,
        job_id: str,
        control: Input | Eof | Signal | Resize | Measure,
        number: int | None = None,
    ) -> Literal["accepted", "closed"]:
        return await self._wire.call(self._server.send, job_id, SentItem.of(0, control), number)

    async def purge(self, job_id: str) -> bool:
        return await self._wire.call(self._server.purge, job_id)

    async def files(self, job_id: str) -> Sequence[JobFile]:
        return await self._wire.call(self._server.files, job_id)

    async def capabilities(self) -> Sequence[Capabilities]:
        return await self._wire.call(self._server.capabilities)

    async def secret(self, name: str) -> bytes:
        return await self._wire.call(self._server.secret, name)

    async def stats(self) -> Stats:
        return await self._wire.call(self._server.stats)

    async def own_queue(self, tenant: str) -> OwnQueue:
        return await self._wire.call(self._server.own_queue, tenant)

    async def ready(self) -> bool:
        return await self._wire.call(self._server.ready)

    async def drain(self) -> None:
        self._draining = True
        await self._wire.call(self._server.drain)
        for claims in self._claims.values():
            if not claims.waiting:
                claims.end()

    async def close(self) -> None:
        await self.drain()
        await self._wire.call(self._server.close)
        for claims in self._claims.values():
            await claims.ended()
        await self.settle()

    # -- for workers --------------------------------------------------------------------

    @property
    def heartbeat_s(self) -> float:
        return self._server.heartbeat_s

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        await self._wire.call(self._server.publish, worker, capabilities)

    async def claim(
        self, worker: str, free: int, accepts: Accepts | None = None
    ) -> Sequence[Lease]:
        claims = self._claims.setdefault(worker, Claims(self._server, self._wire, worker))
        try:
            return await claims.claim(free, accepts)
        except asyncio.CancelledError:
            if self._draining:
                claims.end()
            raise

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        by_token = {lease.token: lease for lease in leases if isinstance(lease, RemoteLease)}
        told = await self._wire.ask(self._server.heartbeat, list(by_token))
        return [(by_token[token], Cancel() if what == "cancel" else Lost()) for token, what in told]

    async def reap(self) -> int:
        return await self._wire.call(self._server.reap)

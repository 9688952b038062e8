"""The worker side of a node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streamer.engine.endings import SHUT_DOWN, WORKER_LOST
from streamer.engine.interface import Cancel, Lease, Lost
from streamer.engine.redis.claims import Ask, Claims
from streamer.engine.redis.lease import RedisLease
from streamer.engine.redis.node import RedisNode
from streamer.engine.redis.wire import accepted, encoded
from streamer.errors import EngineUnavailable
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.events import Error, encode
from streamer.model.logfields import about

__all__ = ["RedisRunner"]

log: Final = logging.getLogger(__name__)

CLAIM_WAIT_S: Final = 1.0

UNREADABLE: Final = Error("internal", "the job was accepted by a service of another version")


class RedisRunner(RedisNode):
    """See `streamer.engine.interface.Runner`."""

    @property
    def heartbeat_s(self) -> float:
        return self._limits.lease_s / 3

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        if capabilities is None:
            self._published.pop(worker, None)
            await self._scripts.ask("publish", worker, b"", 0)
        else:
            self._published[worker] = words = (encoded(capabilities), capabilities.places)
            await self._scripts.ask("publish", worker, *words)
        self._forget_workers()

    async def claim(
        self, worker: str, free: int, accepts: Accepts | None = None
    ) -> Sequence[Lease]:
        claims = self._claims.get(worker)
        if claims is None:
            claims = Claims(self._asking(worker), self._bell, CLAIM_WAIT_S)
            self._claims[worker] = claims
        try:
            return await claims.claim(free, accepts)
        except asyncio.CancelledError:
            if self._draining:
                self._in_background(self._end_unfetched(claims))
            raise

    def _asking(self, worker: str) -> Ask:
        async def ask(number: int, free: int, accepts: Accepts | None) -> list[RedisLease]:
            if self._closed:
                return []
            tell = self._places.due()
            answer = await self._scripts.ask(
                "claim", worker, number, self._node, free, accepted(accepts), int(tell)
            )
            self._told_places(told=tell, changed=bool(answer))
            leases = [lease for lease in map(self._lease, answer) if lease is not None]
            for lease in leases:
                self._leases[lease.job_id] = lease
                if lease.job_id in self._rung:
                    lease.look()
            self._rung.clear()
            return leases

        return ask

    def _lease(self, fields: Sequence[Any]) -> RedisLease | None:
        try:
            return RedisLease(self._scripts, fields, self._clock, self._left)
        except msgspec.DecodeError:
            # Those that were claimed with it must not be lost.
            job_id, token = (field.decode() for field in fields[:2])
            told = about(job_id)
            log.exception("job %s is of a service of another version", job_id, extra=told)
            self._in_background(self._refuse(job_id, token))
            return None

    def _left(self, lease: RedisLease) -> None:
        # This node may have the job again.
        if self._leases.get(lease.job_id) is lease:
            del self._leases[lease.job_id]

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        held = [lease for lease in leases if isinstance(lease, RedisLease)]
        pairs = [word for lease in held for word in (lease.job_id, lease.token)]
        told: list[tuple[Lease, Cancel | Lost]] = []
        for lease, what in zip(held, await self._scripts.ask("beat", *pairs), strict=True):
            if what == b"lost":
                lease.end()
                told.append((lease, Lost()))
            elif what == b"cancel":
                told.append((lease, Cancel()))
        return told

    @property
    def node(self) -> str:
        return self._node

    async def node_gone(self, node: str) -> None:
        with contextlib.suppress(EngineUnavailable):  # the leases end
            await self._scripts.ask("gone", *encode(WORKER_LOST), node)

    async def _abandon(self, lease: RedisLease) -> None:
        """End a job that this node has, and will not run."""
        await self._end(lease.job_id, lease.token, SHUT_DOWN)
        lease.end()

    async def _refuse(self, job_id: str, token: str) -> None:
        with contextlib.suppress(EngineUnavailable):  # its lease ends
            await self._end(job_id, token, UNREADABLE)

    async def _end(self, job_id: str, token: str, error: Error) -> None:
        await self._scripts.call("finish", job_id, token, "close", "", "", 0, *encode(error))

    async def _end_unfetched(self, claims: Claims) -> None:
        for lease in await claims.end():
            if not await lease.release():
                await self._abandon(lease)

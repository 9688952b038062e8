"""One process among those that share a server: its connections, and what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from streamer.engine.endings import WORKER_LOST
from streamer.engine.redis.address import Address
from streamer.engine.redis.blobs import RedisBlobs
from streamer.engine.redis.claims import Claims
from streamer.engine.redis.lease import RedisLease
from streamer.engine.redis.limits import RedisLimits
from streamer.engine.redis.link import Link, Word
from streamer.engine.redis.listener import Listener
from streamer.engine.redis.mirrors import Mirrors
from streamer.engine.redis.rates import RedisRates
from streamer.engine.redis.scripts import Scripts
from streamer.engine.redis.sessions import RedisSessions
from streamer.engine.redis.startup import check, explained
from streamer.engine.redis.webhooks import RedisWebhooks
from streamer.engine.stores.store import Store
from streamer.engine.throttle import Throttle
from streamer.errors import EngineUnavailable
from streamer.model.capabilities import Capabilities
from streamer.model.events import encode

__all__ = ["RedisNode"]

log: Final = logging.getLogger(__name__)

ALIVE_S: Final = 1.0
"""How often a node says that it is there, to others and, through the server, to itself."""

DEAF: Final = 3
"""So many of these messages in a row that were sent and not heard mean that it hears nothing."""


class RedisNode:
    """What both sides of the engine share.

    `store` is for the bytes of files, which are in the server otherwise. `clock` is for tests;
    otherwise time is the server's.
    """

    def __init__(
        self,
        address: Address,
        limits: RedisLimits,
        *,
        store: Store | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._node = secrets.token_hex(8)
        self._link = Link(address)
        self._link.on_up = self._connected
        self._listener = Listener(address)
        self._listener.on_restored = self._look_everywhere
        self._scripts = Scripts(self._link, limits, clock, self._may_reap)
        self._mirrors = Mirrors(self._listener, self._scripts, limits.log_bytes)
        self.rates = RedisRates(self._scripts)
        self.blobs = RedisBlobs(self._scripts, limits.blobs, store)
        self.sessions = RedisSessions(self._scripts, limits.sessions, self._node)
        self.webhooks = RedisWebhooks(self._scripts, self._node)
        self.sessions.is_draining = lambda: self._draining
        self._leases: dict[str, RedisLease] = {}
        self._claims: dict[str, Claims] = {}
        self._workers: Sequence[Capabilities] | None = None
        """What the workers have published, as far as that is known."""
        self._workers_until = 0.0
        self._workers_version = 0
        self._published: dict[str, tuple[Word, ...]] = {}
        """What the workers of this node have published."""
        self._listeners: dict[str, list[Callable[[bytes], None]]] = {}
        """Those who want to know what a job uses."""
        self._rung: set[str] = set()
        """The jobs that something was said about before this node knew that it has them."""
        self._bell = asyncio.Event()
        """Set when a worker may be able to take a job."""
        self._places = Throttle(self._tell_places, limits.places_s)
        self._connected_at = 0.0
        self._sent = self._heard = 0
        self._reaps = 0
        self._reaping = asyncio.Lock()
        self._epoch = b""
        """What tells whether the server has begun anew."""
        self._alive: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._draining = False
        self._closed = False

    async def connect(self) -> None:
        """Connect, if that was not done yet. Raises `ServiceError`."""
        if self._alive is not None:
            return
        with explained(self._link.address):
            await self._link.open()
            await check(self._link)
            # The first call that leads to the node of a cluster which has the keys.
            self._epoch, _ = await self._scripts.call("alive", self._node, self._sent, 0)
            await self._listener.open()
            for channel, hear in (
                (f"node:{self._node}", self._hear),
                ("bell", lambda _: self._bell.set()),
                ("sessions", lambda _: self.sessions.news_bell.set()),
                ("workers", lambda _: self._forget_workers()),
                ("hooks", lambda _: self.webhooks.bell.set()),
            ):
                await self._listener.subscribe(channel, hear)
        self._alive = asyncio.create_task(self._keep_alive(), name="streamer-redis-alive")

    def _connected(self) -> None:
        self._connected_at = self._now()

    def _may_reap(self) -> bool:
        # While this node was away, so may the server have been, and no lease could be renewed.
        return self._now() - self._connected_at >= self._limits.lease_s

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else self._clock()

    async def reap(self, *, tell: bool = True) -> int:
        """Do what `streamer.engine.interface.Runner.reap` says; its answer may be lost.

        With `tell` waiting jobs are told what has changed for them.
        """
        async with self._reaping:
            words = (*encode(WORKER_LOST), self._node, self._reaps, int(tell))
            lost = int(await self._scripts.ask("reap", *words))
            self._reaps += 1
            return lost

    # -- what it hears --------------------------------------------------------------------

    def _hear(self, message: bytes) -> None:
        kind, _, name = message.decode().partition(" ")
        match kind:
            case "job" if name in self._leases:
                self._leases[name].look()
            case "job" if any(claims.waiting for claims in self._claims.values()):
                self._rung.add(name)
            case "session":
                self.sessions.look(name)
            case "alive":
                self._heard = int(name)

    def _look_everywhere(self) -> None:
        """Look whether there is something that no message was heard about."""
        self._mirrors.catch_up()
        self._forget_workers()
        self._bell.set()
        self.webhooks.bell.set()
        self.sessions.look_all()
        for lease in self._leases.values():
            lease.look()
        self._in_background(self._publish_again())

    async def _publish_again(self) -> None:
        with contextlib.suppress(EngineUnavailable):  # the next heartbeat does it
            for worker, words in tuple(self._published.items()):
                await self._scripts.ask("publish", worker, *words)

    def _forget_workers(self) -> None:
        self._workers = None
        self._workers_version += 1

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            try:
                await self._say_alive()
                if self._clock is None:  # otherwise a test does it
                    await self.reap(tell=False)
            except EngineUnavailable:
                pass
            except Exception:
                # If this ended, others would think that the node had.
                log.exception("this node cannot say that it is there")
            if self._sent - self._heard > DEAF and self._listener.up.is_set():
                log.warning("nothing is heard of %s any more: connecting again", self._link.address)
                self._heard = self._sent
                self._listener.renew()

    async def _say_alive(self) -> None:
        words = (self._node, self._sent + 1, int(self._draining))
        epoch, more = await self._scripts.ask("alive", *words)
        self._sent += 1
        while more:  # the jobs of sessions that have ended
            more = await self._scripts.ask("endings")
        if epoch != self._epoch:
            log.warning("%s has begun anew: what it had is lost", self._link.address)
            self._epoch = epoch
            self.blobs.begun_anew()
            self._look_everywhere()

    # -- what is done beside the calls ------------------------------------------------------

    def _told_places(self, *, told: bool, changed: bool) -> None:
        if changed and told:
            self._places.done()
        elif changed:
            self._places.request()

    def _tell_places(self) -> None:
        self._in_background(self._ask_places())

    async def _ask_places(self) -> None:
        with contextlib.suppress(EngineUnavailable):  # the next change tells them
            await self._scripts.ask("places")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

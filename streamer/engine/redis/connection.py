"""A connection to the server that is made again whenever it breaks."""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import AuthenticationError, MovedError, RedisError

from streamer.engine.redis.address import Address

__all__ = ["LOST", "LastingConnection", "opened"]

log: Final = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
PAUSES_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Pauses before the attempts to connect again; the last one is used again and again."""

LOST: Final = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What a connection raises when it cannot be used any more."""


async def opened(address: Address, place: tuple[str, int] | None = None) -> AbstractConnection:
    """Return a connection, logged in; `place` is another node of the same cluster."""
    kind: type[AbstractConnection] = Connection
    where: dict[str, object] = {"host": address.host, "port": address.port}
    if place is not None:
        where = {"host": place[0], "port": place[1]}
    if address.path:
        kind, where = UnixDomainSocketConnection, {"path": address.path}
    elif address.encrypted:
        kind, where = SSLConnection, where | dict(address.tls)
    connection = kind(
        **where,  # type: ignore[arg-type]
        **address.login,  # type: ignore[arg-type]
        db=address.database,
        protocol=2,
        # Its own timeouts would end what waits for messages; `Link` has better ones.
        socket_timeout=None,
        socket_connect_timeout=CONNECT_S,
    )
    try:
        async with asyncio.timeout(CONNECT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


class LastingConnection(abc.ABC):
    """Keeps one connection, in a task of its own, from `open` to `close`."""

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.up = asyncio.Event()
        """Set while it can be used."""
        self._name = name
        self._place: tuple[str, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._drop: asyncio.Event = asyncio.Event()
        self.down_since = -1e9
        """When it broke, by the clock of the loop."""
        self._worked = False
        """Whether the server has answered on this connection, and done as it was told."""

    async def open(self) -> None:
        """Connect. Raises what the first attempt does; later ones are repeated without end."""
        if self._task is None:
            connection = await opened(self.address)
            self._task = asyncio.create_task(self._keep(connection), name=self._name)
            await self.up.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def renew(self) -> None:
        """Give up this connection, and make another one."""
        self._drop.set()

    async def _keep(self, connection: AbstractConnection | None) -> None:
        failed = 0
        while True:
            reason: BaseException | None = None
            try:
                if connection is None:
                    connection = await opened(self.address, self._place)
                await self._use(connection)
            except LOST as error:
                reason = error
            except Exception as error:
                # If this ended, there would never be a connection again.
                log.exception("%s sent what was not expected", self.address)
                reason = error
            finally:
                was_up = self.up.is_set()
                self.up.clear()
                if connection is not None:
                    await connection.disconnect(nowait=True)
                self._lost()
            connection = None
            if was_up:
                self.down_since = asyncio.get_running_loop().time()
            # Otherwise it may refuse whatever it is told: each attempt waits longer.
            worked, self._worked = self._worked, False
            if worked:
                failed = 0
                log.warning("the connection to %s was lost: %s", self.address, reason)
            elif failed == len(PAUSES_S) or isinstance(reason, AuthenticationError):
                log.error("%s cannot be reached: %s", self.address, reason)
            if not self._moved(reason):
                self._place = None
                await asyncio.sleep(PAUSES_S[min(failed, len(PAUSES_S) - 1)])
            failed += 1

    async def _use(self, connection: AbstractConnection) -> None:
        """Serve until the connection breaks, or `renew` is called."""
        self._drop.clear()
        tasks = {asyncio.create_task(part) for part in self._parts(connection)}
        tasks.add(asyncio.create_task(_given_up(self._drop)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _moved(self, error: BaseException | None) -> bool:
        """Follow an answer of a cluster to the node that has our slot."""
        if not isinstance(error, MovedError) or self._place is not None:
            return False
        self._place = (error.host or self.address.host, error.port)
        return True

    @abc.abstractmethod
    def _parts(self, connection: AbstractConnection) -> Sequence[Coroutine[Any, Any, None]]:
        """Return what runs until the connection breaks; one of them sets `up`."""

    @abc.abstractmethod
    def _lost(self) -> None:
        """Take note that the connection broke."""


async def _given_up(drop: asyncio.Event) -> None:
    await drop.wait()
    raise ConnectionResetError("it was given up")

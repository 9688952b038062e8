"""What a node hears from the server: one connection for all of its channels.

A message is only a hint: whoever hears nothing, or not everything, reads what there is.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoPermissionError

from streamer.engine.redis.address import Address
from streamer.engine.redis.connection import LOST, LastingConnection

__all__ = ["Hear", "Listener"]

Hear = Callable[[bytes], None]

CONFIRM_S: Final = 5.0

_Waiting = dict[bytes, list[asyncio.Future[None]]]
"""Each command of a channel that was sent and not confirmed, in their order."""


class Listener(LastingConnection):
    def __init__(self, address: Address) -> None:
        super().__init__(address, "streamer-redis-listener")
        self._root = address.root.encode()
        self._hear: dict[bytes, Hear] = {}
        self._confirmed: _Waiting = {}
        """The channels that were subscribed to, until the server says so."""
        self._leaving: _Waiting = {}
        """The channels whose subscriptions were ended here, until the server says so."""
        self._connection: AbstractConnection | None = None
        self.on_restored: Callable[[], None] = lambda: None
        """Called when it hears again, after it may have missed messages."""

    async def subscribe(self, channel: str, hear: Hear) -> None:
        """Call `hear` with each message from now on: when this returns, the server knows.

        Without a connection it returns at once, and the channel is heard after the next
        `on_restored`.
        """
        name = self._root + channel.encode()
        self._hear[name] = hear
        if self._connection is None:
            return
        confirmed = _wait_for(self._confirmed, name)
        await self._send("SSUBSCRIBE", name)
        await asyncio.wait({confirmed}, timeout=CONFIRM_S)
        if confirmed.done():
            confirmed.result()

    async def unsubscribe(self, channel: str) -> None:
        """Undo `subscribe`: when this returns, the server knows."""
        name = self._root + channel.encode()
        self._hear.pop(name, None)
        if self._connection is not None:
            left = _wait_for(self._leaving, name)
            await self._send("SUNSUBSCRIBE", name)
            await asyncio.wait({left}, timeout=CONFIRM_S)

    async def _send(self, *words: str | bytes) -> None:
        if self._connection is not None:
            try:
                await self._connection.send_command(*words, check_health=False)
            except LOST:
                self._connection = None  # it would connect by itself
                self.renew()

    def _parts(self, connection: AbstractConnection) -> Sequence[Coroutine[Any, Any, None]]:
        return (self._read(connection),)

    async def _read(self, connection: AbstractConnection) -> None:
        missing = set(self._hear)
        if missing:
            await connection.send_command("SSUBSCRIBE", *missing, check_health=False)
            for channel in missing:
                _wait_for(self._confirmed, channel)
        self._connection = connection
        while True:
            if not missing and not self.up.is_set():
                self.up.set()
                self.on_restored()
            try:
                kind, channel, message = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except NoPermissionError as error:
                self._refuse(error)
                raise
            self._worked = True
            missing.discard(channel)
            self._take(kind, channel, message)

    def _take(self, kind: bytes, channel: bytes, message: bytes) -> None:
        if kind == b"smessage":
            if (hear := self._hear.get(channel)) is not None:
                hear(message)
        elif kind == b"ssubscribe":
            _next(self._confirmed, channel)
        elif channel in self._leaving:
            _next(self._leaving, channel)
        elif channel in self._hear:
            # The slot of the keys has moved to another node of the cluster.
            raise ConnectionResetError("the server has ended a subscription")

    def _refuse(self, error: NoPermissionError) -> None:
        for confirmed in itertools.chain(*self._confirmed.values()):
            if not confirmed.done():
                confirmed.set_exception(error)

    def _lost(self) -> None:
        self._connection = None
        leaving, self._leaving = self._leaving, {}
        confirmed, self._confirmed = self._confirmed, {}
        for one in itertools.chain(*confirmed.values(), *leaving.values()):
            _set(one)  # what is still wanted will be heard later


def _wait_for(waiting: _Waiting, channel: bytes) -> asyncio.Future[None]:
    confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.setdefault(channel, []).append(confirmed)
    return confirmed


def _next(waiting: _Waiting, channel: bytes) -> None:
    """Take note that the first command of a channel is done."""
    futures = waiting[channel]
    _set(futures.pop(0))
    if not futures:
        del waiting[channel]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

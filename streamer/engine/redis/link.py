"""The commands of one node, on one connection: none waits for the answers of others."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from streamer.engine.redis.address import Address
from streamer.engine.redis.connection import LastingConnection
from streamer.errors import Busy, EngineUnavailable

__all__ = ["Link", "Word"]

Word = bytes | str | int | float

PATIENCE_S: Final = 3.0
"""How long a call waits for a connection that has just broken, as while a server starts again."""

SILENCE_S: Final = 5.0
"""A server that owes answers and sends nothing for so long is given up."""

AWAY: Final = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)
"""Errors, MovedError among them, of a server that is not, or not yet, the one that has our keys."""

NO_WRITES: Final = ("BUSY", "MISCONF", "NOREPLICAS")
"""How errors begin of a server that takes no writes for a while, and has done nothing."""


class Link(LastingConnection):
    def __init__(self, address: Address) -> None:
        super().__init__(address, "streamer-redis-link")
        self._out: list[bytes] = []
        self._more = asyncio.Event()
        """Set when there is something to send."""
        self._asked: deque[asyncio.Future[Any]] = deque()
        """The calls without an answer yet, in the order of the answers."""
        self._progress = 0.0
        """When the last answer came, or the first of the calls without one was made."""
        self.on_up: Callable[[], None] = lambda: None

    async def call(self, *words: Word) -> Any:
        """Send a command and return its answer.

        Raises `EngineUnavailable` if there is no connection, or if it breaks before the answer:
        then the command may have been done. A call that is cancelled is done all the same.
        """
        if not self.up.is_set():
            await self._wait()
        loop = asyncio.get_running_loop()
        if not self._asked:
            self._progress = loop.time()
        answered: asyncio.Future[Any] = loop.create_future()
        self._asked.append(answered)
        self._out.append(pack_command(words))  # type: ignore[arg-type]
        self._more.set()
        try:
            return await answered
        finally:
            # It has the error, and that has this frame: all that was sent would wait for the
            # garbage collector.
            del answered

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self.down_since + PATIENCE_S - loop.time()
        if left_s > 0 and self._task is not None and not self._task.done():
            try:
                async with asyncio.timeout(left_s):
                    await self.up.wait()
            except TimeoutError:
                pass
            else:
                return
        raise EngineUnavailable("there is no connection to the engine's server; try again later")

    def _parts(self, connection: AbstractConnection) -> Sequence[Coroutine[Any, Any, None]]:
        return self._read(connection), self._write(connection), self._watch()

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            out, self._out = self._out, []
            await connection.send_packed_command(out, check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        self.up.set()
        self.on_up()
        loop = asyncio.get_running_loop()
        while True:
            try:
                answer = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except AuthenticationError as error:
                self._answer(error)
                raise
            except AWAY:
                raise
            except ResponseError as error:
                answer = error
            self._progress = loop.time()
            self._worked = True
            self._answer(answer)

    def _answer(self, answer: Any) -> None:
        answered = self._asked.popleft()
        if answered.done():
            return  # who asked has left
        if isinstance(answer, OutOfMemoryError):
            answered.set_exception(Busy("the engine's server has no memory left; try again later"))
        elif isinstance(answer, Exception) and (word := str(answer).split(" ")[0]) in NO_WRITES:
            answered.set_exception(
                EngineUnavailable(f"the engine's server takes no writes now ({word})")
            )
        elif isinstance(answer, Exception):
            answered.set_exception(answer)
        else:
            answered.set_result(answer)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            if self._asked and loop.time() - self._progress > SILENCE_S:
                raise TimeoutError(f"the server does not answer within {SILENCE_S:g} s")

    def _lost(self) -> None:
        asked, self._asked, self._out = self._asked, deque(), []
        self._more.clear()
        for answered in asked:
            if not answered.done():
                answered.set_exception(
                    EngineUnavailable("the connection to the engine's server was lost")
                )

"""The connection to the server: calls are encoded, delayed, and sometimes lost."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints

import msgspec

from streamer import errors
from streamer.engine.interface import LeaseLost

R = TypeVar("R")
T = TypeVar("T")

CALLER: Final[ContextVar[object]] = ContextVar("caller")
"""The node whose call the server is processing."""

REFUSALS: Final[dict[str, type[Exception]]] = {
    **{name: getattr(errors, name) for name in errors.__all__ if name[0].isupper()},
    "LeaseLost": LeaseLost,
    "ValueError": ValueError,
}


@dataclass(frozen=True)
class Weather:
    """How bad the connection is: times in seconds, probabilities for each call."""

    slow: float = 0.05
    slow_s: float = 0.003
    lost: float = 0.03
    """Of a worker's calls: half of the lost ones never arrive, of the others the answer is lost."""
    cut: float = 0.05
    """Of a mirror's batches: the connection breaks, and the batch is lost."""


class Wire:
    """One node's connection; the same `seed` makes the same things happen to it.

    `patient` repeats calls that the interface leaves to the worker, for suites that do not test
    that.
    """

    def __init__(self, seed: int, weather: Weather | None = None, *, patient: bool = False) -> None:
        self._chance = random.Random(seed)
        self.weather = weather or Weather()
        self._patient = patient
        self._tasks: set[asyncio.Task[Any]] = set()
        """Calls in progress at the server, whether or not the caller still waits."""
        self.on_answer: Callable[[], None] = lambda: None
        """Called for each answer that arrives."""

    async def lag(self) -> None:
        """Wait for a few turns of the event loop, or some milliseconds."""
        if self._chance.random() < self.weather.slow:
            await asyncio.sleep(self._chance.uniform(0, self.weather.slow_s))
        else:
            for _ in range(self._chance.randrange(4)):
                await asyncio.sleep(0)

    def cut(self) -> None:
        """Raise ConnectionError for some of a mirror's batches."""
        self._lose(self.weather.cut)

    async def call(self, method: Callable[..., Coroutine[Any, Any, R]], *args: object) -> R:
        """Call the server; the call continues there if the caller is cancelled."""
        answer = await self._answered(method, args)
        self.on_answer()
        return answer

    async def ask(self, method: Callable[..., Coroutine[Any, Any, R]], *args: object) -> R:
        """Call as a worker does: after ConnectionError it may have been done or not."""
        while True:
            try:
                self._lose(self.weather.lost / 2)
                answer = await self._answered(method, args)
                self._lose(self.weather.lost / 2)
            except ConnectionError:
                if not self._patient:
                    raise
                await self.lag()
            else:
                self.on_answer()
                return answer

    async def _answered(
        self, method: Callable[..., Coroutine[Any, Any, R]], args: tuple[object, ...]
    ) -> R:
        *takes, gives = _decoders(method)
        sent = [
            decoder.decode(msgspec.msgpack.encode(value))
            for decoder, value in zip(takes, args, strict=True)
        ]
        await self.lag()
        context = copy_context()
        context.run(CALLER.set, self)
        task = asyncio.get_running_loop().create_task(_answer(method(*sent)), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        answer = await asyncio.shield(task)
        await self.lag()
        if isinstance(answer, _Refusal):
            raise answer.error()
        decoded: R = gives.decode(answer)
        return decoded

    def _lose(self, share: float) -> None:
        if self._chance.random() < share:
            raise ConnectionResetError("the connection to the engine was lost")


class _Refusal(msgspec.Struct):
    kind: str
    message: str
    fields: dict[str, Any]

    def error(self) -> Exception:
        kind = REFUSALS[self.kind]
        error = kind.__new__(kind, self.message)
        error.args = (self.message,)
        vars(error).update(self.fields)
        return error


async def _answer(acting: Awaitable[object]) -> bytes | _Refusal:
    try:
        return msgspec.msgpack.encode(await acting)
    except tuple(REFUSALS.values()) as error:
        refusal = _Refusal(type(error).__name__, str(error.args[0]), vars(error))
        return carried(refusal)


def carried(value: T) -> T:
    """Return the value as it arrives on the other side: an equal copy."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))


_known: dict[object, list[msgspec.msgpack.Decoder[Any]]] = {}


def _decoders(method: Callable[..., object]) -> list[msgspec.msgpack.Decoder[Any]]:
    """Return the decoders of a method's arguments, followed by that of its answer."""
    function = getattr(method, "__func__", method)
    if function not in _known:
        hints = get_type_hints(function)
        names = [*inspect.signature(method).parameters, "return"]
        _known[function] = [msgspec.msgpack.Decoder(hints[name]) for name in names]
    return _known[function]

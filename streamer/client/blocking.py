"""Make blocking methods from asynchronous ones, with their names, arguments and types.

So the blocking client has no code of its own for what the asynchronous one does.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from streamer.client.portal import END, Portal

__all__ = ["Facade", "Iterated", "blocking", "iterating", "wrapping"]

A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


class Facade(Generic[A]):
    """The blocking side of an asynchronous object, which lives in the loop of the portal."""

    def __init__(self, inner: A, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal


class Closable(Protocol[T_co]):
    """An asynchronous iterator that is closed."""

    async def __anext__(self) -> T_co: ...
    def __aiter__(self) -> AsyncIterator[T_co]: ...
    async def aclose(self) -> None: ...


Source = TypeVar("Source", bound=Closable[Any])


class Iterated(Facade[Source], Generic[Source, T]):
    """The blocking side of what is iterated over and closed."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        async def following() -> T:
            return cast("T", await anext(self._inner, END))

        if (found := self._portal.call(following)) is END:
            raise StopIteration
        return found

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop following; with `cancel_on_close`, also cancel a job that is not over."""
        self._portal.finish(self._inner.aclose)


class Method(Protocol[P, T_co]):
    """A method: what a type checker sees of a function that is made below."""

    @overload
    def __get__(self, facade: None, owner: type) -> Callable[Concatenate[Any, P], T_co]: ...
    @overload
    def __get__(self, facade: object, owner: type) -> Callable[P, T_co]: ...


def blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Method[P, T]:
    """Return the method that waits for the result of this one."""

    @functools.wraps(method)
    def call(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._portal.call(lambda: method(self._inner, *args, **kwargs))

    return cast("Method[P, T]", call)


def iterating(
    method: Callable[Concatenate[A, P], AsyncGenerator[T, None]],
) -> Method[P, Generator[T, None, None]]:
    """Return the method that yields what this one yields."""

    @functools.wraps(method)
    def iterate(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._portal.iterate(lambda: method(self._inner, *args, **kwargs))

    return cast("Method[P, Generator[T, None, None]]", iterate)


def wrapping(
    method: Callable[Concatenate[A, P], B], facade: Callable[[B, Portal], S]
) -> Method[P, S]:
    """Return the method that gives the blocking side of what this one returns."""

    @functools.wraps(method)
    def wrap(self: Facade[A], /, *args: P.args, **kwargs: P.kwargs) -> S:
        return facade(method(self._inner, *args, **kwargs), self._portal)

    return cast("Method[P, S]", wrap)

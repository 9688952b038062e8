"""Lend sandboxes to one job, one after another: together they have its one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from streamer.sandbox.held import HeldSandboxes
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Shape

__all__ = ["Series", "SeriesRoom"]


@dataclass(frozen=True, slots=True)
class Series:
    """The sandboxes of one job, of which `most` may be open at a time."""

    most: int
    _held: HeldSandboxes

    async def lend(self, shape: Shape, _: Program | None = None) -> Sandbox:
        """Lend the next one; the caller must close it. Raises `SandboxFailure`."""
        return await self._held.lend_another(shape)


MOST: Final = 3
"""Of one series are open at a time: one in use, the next one, and one that is being closed."""


class SeriesRoom:
    """All series of a pool, which have at most `more` sandboxes together beside one for each.

    As root each sandbox has a user. There are as many as places, and a few more: only those are for
    what is opened ahead, so that no job waits for a user until the case of another is over.
    """

    def __init__(self, held: HeldSandboxes, more: int) -> None:
        self._held = held
        self._left = more

    @contextmanager
    def begin(self) -> Iterator[Series]:
        """Count a series while the block lasts."""
        more = min(MOST - 1, self._left)
        self._left -= more
        try:
            with self._held.place():
                yield Series(1 + more, self._held)
        finally:
            self._left += more

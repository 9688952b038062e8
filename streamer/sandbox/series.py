"""Lend sandboxes to one job, one after another: together they have its one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from streamer.sandbox.held import HeldSandboxes
from streamer.sandbox.sandbox import Sandbox
from streamer.sandbox.shape import Program, Shape

__all__ = ["Series", "SeriesRoom"]


@dataclass(frozen=True, slots=True)
class Series:
    """The sandboxes of one job. If it `overlaps`, the next may be opened while one is in use."""

    overlaps: bool
    _held: HeldSandboxes

    async def lend(self, shape: Shape, _: Program | None = None) -> Sandbox:
        """Lend the next one; the caller must close it. Raises `SandboxFailure`."""
        return await self._held.lend_another(shape)


class SeriesRoom:
    """All series of a pool, of which `most` at a time overlap.

    As root each sandbox has a user. There are as many as places, and a few more: only those are for
    what is opened ahead, so that no job waits for a user until the case of another is over.
    """

    def __init__(self, held: HeldSandboxes, most: int) -> None:
        self._held = held
        self._left = most

    @contextmanager
    def begin(self) -> Iterator[Series]:
        """Count a series while the block lasts."""
        overlaps = self._left > 0
        self._left -= overlaps
        try:
            with self._held.place():
                yield Series(overlaps, self._held)
        finally:
            self._left += overlaps

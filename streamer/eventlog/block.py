"""Frames that were joined, and what logs take together."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.eventlog.spool import Extent

__all__ = ["Block", "Ledger"]


@dataclass(slots=True)
class Ledger:
    """What some logs take together, in bytes."""

    memory: int = 0
    disk: int = 0


@dataclass(eq=False, slots=True)
class Block:
    """The frames of the events `first` to `last`, in memory or on disk, or on their way there."""

    first: int
    last: int
    size: int
    data: bytes | None
    extent: Extent | None = None
    moving: bool = False

    def following(self, after: int, data: bytes) -> bytes:
        """Return what of its frames, which are `data`, follows event `after`."""
        if after < self.first:
            return data
        # The end of a frame: data holds no line of its own, so it cannot stand elsewhere.
        end = b"\nid: %d\n\n" % after
        return data[data.index(end) + len(end) :]

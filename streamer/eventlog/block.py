"""Blocks of joined frames, and the total size of several logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamer.eventlog.spool import Extent

__all__ = ["INDEX_BYTES", "RUN_BYTES", "Block", "Ledger", "following"]

INDEX_BYTES: Final = 320
"""The memory of a block without its frames, also when those are on disk: 260 bytes measured."""

RUN_BYTES: Final = 144
"""The memory of each further run of pages on disk: 135 bytes measured."""


@dataclass(slots=True)
class Ledger:
    """The total size of some logs, in bytes."""

    memory: int = 0
    disk: int = 0


@dataclass(eq=False, slots=True)
class Block:
    """The frames of the events `first` to `last`, of `size` bytes, in memory or on disk."""

    first: int
    last: int
    size: int
    data: bytes | Extent

    @property
    def index_bytes(self) -> int:
        """Its memory without the frames."""
        runs = len(self.data.runs) if isinstance(self.data, Extent) else 1
        return INDEX_BYTES + RUN_BYTES * (runs - 1)


def following(after: int, data: bytes) -> int:
    """Return the offset at which event `after` ends in these frames; it must be one of them."""
    # Each line of data begins with ``data:``, so only the end of a frame looks like this.
    end = b"\nid: %d\n\n" % after
    return data.index(end) + len(end)

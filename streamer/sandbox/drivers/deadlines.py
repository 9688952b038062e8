"""How long a driver waits for its init or for a disk.

`fails_after` bounds a block in the task of its caller, where `streamer.bounded.within` needs one of
its own: a descriptor that arrives just when the caller is cancelled would be lost between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from streamer.errors import SandboxFailure
from streamer.model.job import SourceFile
from streamer.sandbox.shape import StoredProject

__all__ = ["fails_after", "time_to_write"]

FILES_TIMEOUT_S: Final = 20.0
SLOWEST_BYTES_PER_S: Final = 1024 * 1024
SLOWEST_NAMES_PER_S: Final = 100
"""A disk that is slower than this is taken for one that hangs."""


@asynccontextmanager
async def fails_after(timeout_s: float, why: str) -> AsyncIterator[None]:
    """Cancel the block after `timeout_s`, and raise `SandboxFailure` with the reason `why`.

    In a task that was cancelled before, `asyncio.timeout` alone goes on with that cancellation
    (`streamer.bounded`).
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled_before = task.cancelling()
    bound = asyncio.timeout(timeout_s)
    try:
        async with bound:
            yield
    except (TimeoutError, asyncio.CancelledError):
        if not bound.expired() or task.cancelling() > cancelled_before:
            raise
        raise SandboxFailure(why) from None


def time_to_write(files: Sequence[SourceFile], project: StoredProject | None = None) -> float:
    """Return how long it may take to write files and the folders in their names, in seconds."""
    size = sum(len(file.content) for file in files)
    names = sum(file.name.count("/") + 1 for file in files)
    if project is not None:
        size += project.bytes
        names += project.entries
    return FILES_TIMEOUT_S + size / SLOWEST_BYTES_PER_S + names / SLOWEST_NAMES_PER_S

"""What a store of bytes can do, and how it says that it is away.

A store holds bytes by the ids of blobs. What they are, whose, and how long they stay is in the
engine's records: a blob has a record before it has bytes, and its bytes are deleted after that.

Several engines may use one store. Each has a space of its own there, whose name is in its server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from streamer.engine.blobs import Blob
from streamer.errors import Busy, EngineUnavailable, NotFound
from streamer.eventlog.spool import FULL

__all__ = ["Reach", "Store", "StoreWriter", "damaged"]

log: Final = logging.getLogger(__name__)

RETRY_S: Final = 5.0


class StoreWriter(Protocol):
    """The bytes of one blob that is being written. Its calls come one after another."""

    async def begin(self) -> None:
        """Begin, if the store can be used. This and the others raise what `Reach` does."""

    async def write(self, data: bytes) -> None: ...

    async def commit(self) -> str:
        """Make all of it last under the id, at once, and return its SHA-256."""

    async def abandon(self) -> None:
        """Leave nothing, as far as that is possible now; never raises."""


class Store(Protocol):
    """Bytes that several machines share. All but `prepare` raise what `Reach` does."""

    space: str
    """The name of the engine's space: 32 hexadecimal digits, once it is known."""

    async def prepare(self) -> None:
        """Look whether it can be used. Raises `ConfigError` with a remedy."""

    def writer(self, blob_id: str) -> StoreWriter: ...

    def open(
        self, blob: Blob, part: range | None, folder: Path | None
    ) -> AbstractAsyncContextManager[int]:
        """Open a blob as `streamer.engine.blobs.Blobs.open` does.

        What must be fetched is, into `folder`. Raises `NotFound`, and says why in the log, if the
        store has no such bytes, or others.
        """

    async def delete(self, blob_ids: Sequence[str]) -> None:
        """Delete bytes, those of unfinished writers too; without effect if there are none."""

    def older_than(self, age_s: float) -> AsyncGenerator[Sequence[str], None]:
        """Yield the ids of all bytes that were written before, part after part."""

    async def has_space(self, space: str) -> bool: ...

    async def touch_space(self, space: str) -> None:
        """Make a space, or say that it is in use."""

    async def unused_spaces(self, age_s: float) -> Sequence[str]:
        """Return the other spaces that nobody has touched for so long."""

    async def delete_space(self, space: str) -> None: ...

    async def close(self) -> None: ...


class Reach:
    """Whether a store can be reached: errors become those of callers, and are logged once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._away = False

    @contextmanager
    def __call__(self, *failures: type[Exception]) -> Iterator[None]:
        """Raise `EngineUnavailable` for OSError and `failures`, `Busy` if there is no room."""
        try:
            yield
        except EngineUnavailable:
            raise
        except Exception as error:
            if not isinstance(error, (OSError, *failures)):
                raise
            if isinstance(error, OSError) and error.errno in FULL:
                log.error("%s has no room: %s", self._where, error.strerror)
                full = "the disk for files is full; try again later"
                raise Busy(full, code="storage_full") from error
            self._lost(error)
            raise EngineUnavailable(
                "the store of files cannot be used at the moment; try again later",
                retry_after_s=RETRY_S,
            ) from error
        if self._away:
            self._away = False
            log.warning("%s can be used again", self._where)

    def _lost(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            log.error("%s cannot be used: %s", self._where, str(error).partition("\n")[0])


def damaged(where: object, blob: Blob, why: str) -> NotFound:
    """Return the error for bytes that are not those of the record, which is told in the log."""
    log.error("%s: blob %s %s", where, blob.id, why)
    return NotFound("the stored bytes are lost or damaged")

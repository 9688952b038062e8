"""Remember what compilers have made, for the next job of the same tenant with the same program.

The index is this worker's; the builds are blobs (`streamer.worker.build`), which the engine deletes
when there is no room for others. The worker stores them from its own reading of a sandbox, and only
the init of a sandbox reads them: a job can do neither.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final

from streamer.engine.blobs import Blobs
from streamer.model.events import Output
from streamer.model.job import JobProject

__all__ = ["CompileCache", "Compiled"]

log: Final = logging.getLogger(__name__)

ENTRY_BYTES: Final = 8192
"""What an entry takes besides its files and what its compiler has said."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler has made and said; `said_bytes` is how much of the latter it has written."""

    build: JobProject
    said: tuple[Output, ...] = ()
    said_bytes: int = 0

    @property
    def size(self) -> int:
        said = sum(len(output.data) for output in self.said)
        return ENTRY_BYTES + self.build.bytes + 4 * said


class CompileCache:
    """At most `most_bytes`, half of it for one tenant; what was used least recently goes first."""

    def __init__(self, blobs: Blobs, most_bytes: int) -> None:
        self.blobs = blobs
        self.most_bytes = most_bytes
        self._kept: OrderedDict[bytes, tuple[str, Compiled]] = OrderedDict()
        self._used: Counter[str] = Counter()

    @property
    def most_of_one(self) -> int:
        """The most bytes of one entry; 0 if nothing is kept."""
        return self.most_bytes // 2

    def get(self, key: bytes) -> Compiled | None:
        """Return what there is for a key; it may be deleted as soon as something is awaited."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1]

    async def keep(self, key: bytes, tenant: str, compiled: Compiled) -> bool:
        """Own a build from now on; False if there is one already, or it is too large."""
        if key in self._kept or compiled.size > self.most_of_one:
            return False
        self._kept[key] = tenant, compiled
        self._used[tenant] += compiled.size
        try:
            await self.blobs.make_evictable(compiled.build.blob_id)
        except OSError as error:  # it expires
            log.error("a compiled program keeps its space: %s", error)
        while self._used[tenant] > self.most_of_one:
            await self.forget(next(k for k, (owner, _) in self._kept.items() if owner == tenant))
        while self._used.total() > self.most_bytes:
            await self.forget(next(iter(self._kept)))
        return True

    async def forget(self, key: bytes) -> None:
        """Delete an entry; jobs that have opened it can read on."""
        found = self._kept.pop(key, None)
        if found is None:
            return
        tenant, compiled = found
        self._used[tenant] -= compiled.size
        if not self._used[tenant]:
            del self._used[tenant]
        await self.drop(compiled.build)

    async def drop(self, build: JobProject) -> None:
        """Delete a build that nobody needs: what goes wrong with that must not harm a job."""
        try:
            await self.blobs.delete(build.blob_id)
        except OSError as error:  # it expires
            log.error("a compiled program could not be deleted: %s", error)

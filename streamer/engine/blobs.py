"""Define the blobs of an engine: bytes on disk that the API half and the workers share.

Projects and artifacts are blobs. A blob is written once, then only read or deleted. What holds for
every engine, and is tested for each by ``tests/engine/test_blobs.py``:

- A blob exists only when it was committed; what is abandoned earlier leaves nothing.
- Every byte that is stored, also before it is committed, counts as the disk space that it takes.
- A descriptor of `open` can be read to the end of its context, even if the blob is deleted.
- What was made evictable is deleted before anything is refused for want of its space, unless it is
  being read: one tenant's for its own share, anybody's for what all share.
- The event loop never waits for a disk.

A broken connection is repeated by the engine itself; OSError if that does not help.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Blob", "BlobFacts", "BlobWriter", "Blobs", "JobFile"]


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: nobody can guess its id. `sha256` is in hexadecimal digits."""

    id: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """A blob and what was said when it was created. Times are seconds since the epoch."""

    blob: Blob
    tenant: str
    kind: str
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file that a job has left: its path in the workspace, its bytes, and their CRC-32."""

    name: str
    blob: Blob
    crc32: int


class BlobWriter(Protocol):
    """One blob that is being written. Its calls come one after another."""

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises `TooLarge` beyond the blob's own limit, `RateLimited` if the tenant's share of the
        disk is used up, `Busy` if that of all tenants is or the disk is full, and OSError if the
        disk fails or hangs. After an exception the writer cannot be used.
        """

    async def commit(self) -> Blob:
        """Make it a blob, which can then be opened. Nothing can be written afterwards."""


class Blobs(Protocol):
    """The blobs of one engine, which may be on other machines."""

    def create(
        self, tenant: str, most_bytes: int, *, kind: str = "", keep_s: float | None = None
    ) -> AbstractAsyncContextManager[BlobWriter]:
        """Open a writer as an async context manager; what it has not committed is discarded.

        A blob with `keep_s` is deleted so many seconds after its creation. `kind` says what it is,
        so that an id of one kind is not taken for another. Raises `RateLimited`, `Busy`, OSError.
        """

    def open(self, blob_id: str, *, part: range | None = None) -> AbstractAsyncContextManager[int]:
        """Open a blob as an async context manager of a descriptor, which can only be read.

        It may be shared, so read it with pread(2), in a thread. With `part` only these bytes need
        be there, at their places; an engine whose bytes are elsewhere compares the whole with its
        SHA-256, a part not. Raises `NotFound`, OSError.
        """

    async def find(self, blob_id: str) -> BlobFacts | None:
        """Return what is known of a blob; None if there is none, or no longer."""

    async def delete(self, blob_id: str) -> None:
        """Delete a blob; without effect if there is none."""

    async def make_evictable(self, blob_id: str) -> None:
        """Let a blob give way when there is no room for another; without effect if there is none.

        Those that were opened least recently go first.
        """

    async def used_bytes(self) -> int:
        """Return the disk space of all blobs."""

    async def used_by(self, tenant: str) -> int:
        """Return the disk space of one tenant's blobs."""

"""The file of a blob that is being written."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from streamer.eventlog.spool import check_room

__all__ = ["BlobFile"]

NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobFile:
    """The file of a writer. Its methods run in threads.

    A writer may be abandoned while a thread writes: the lock keeps the descriptor open until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._fd = -1
        self._discarded = False

    def open(self) -> None:
        with self._lock:
            if not self._discarded:
                self._fd = os.open(self.path, NEW, 0o600)

    def append(self, data: bytes) -> None:
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the file is closed")
            check_room(self._fd, len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            self._digest.update(data)

    def close(self, *, synced: bool = False) -> str:
        """Close the file, `synced` when it is on the disk, and return its SHA-256."""
        with self._lock:
            if self._fd < 0:
                raise OSError(errno.EBADF, "the file is closed")
            fd, self._fd = self._fd, -1
            try:
                if synced:
                    os.fdatasync(fd)
            finally:
                os.close(fd)
            return self._digest.hexdigest()

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)
            with suppress(FileNotFoundError):
                self.path.unlink()

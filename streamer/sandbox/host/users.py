"""Lend each sandbox its own unprivileged user, if the service is root.

A job with its own uid cannot signal the service, read another job's files, or use up another job's
number of processes, in any backend. The uids are 60706-61183, which systemd's allocation
(UIDS-GIDS.md) leaves unused and which exist in a container that maps 65536 uids. Services on one
host share the range, so each uid in use has a lock (flock(2)) that ends with its service.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from streamer.errors import ConfigError
from streamer.spi import Identity

__all__ = ["UID_COUNT", "JobUsers"]

UID_COUNT: Final = 478
LOCK_FOLDER: Final = Path("/run/streamer-uids")


class JobUsers:
    """The users of one service, one for each place. For a root service only."""

    def __init__(self, first_uid: int, count: int, spare: int = 0) -> None:
        """Reserve `count` users, and up to `spare` more if so many are free."""
        self._places = count
        self._locks: dict[int, int] = {}
        self._free: list[int] = []
        self._count = asyncio.Semaphore(0)
        LOCK_FOLDER.mkdir(mode=0o700, exist_ok=True)
        for uid in range(first_uid, first_uid + UID_COUNT):
            if len(self._locks) == count + spare:
                break
            fd = os.open(LOCK_FOLDER / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._locks[uid] = fd
            self._give(uid)
        if len(self._locks) < count:
            found = len(self._locks)
            self.close()
            raise ConfigError(
                f"queue.concurrency and sessions.max need {count} users from sandbox.uid_base = "
                f"{first_uid} on, and only {found} of {UID_COUNT} are free: lower them, or stop "
                "another service that runs as root on this host"
            )

    @property
    def spare(self) -> int:
        """How many there are beyond those of the places."""
        return len(self._locks) - self._places

    @asynccontextmanager
    async def lend(
        self, preferred: Callable[[], frozenset[int]] = frozenset
    ) -> AsyncIterator[Identity]:
        """Lend a user, one of the `preferred` if one is free."""
        await self._count.acquire()
        wanted = preferred()
        # The last one used first: it may have a template.
        best = next((uid for uid in reversed(self._free) if uid in wanted), self._free[-1])
        self._free.remove(best)
        try:
            yield Identity(best, best)
        finally:
            self._give(best)

    def _give(self, uid: int) -> None:
        self._free.append(uid)
        self._count.release()

    def close(self) -> None:
        """Release the locks of the uids."""
        for fd in self._locks.values():
            os.close(fd)
        self._locks.clear()

"""Make the folders of the host that are workspaces of sandboxes, and remove them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from streamer.spi import Identity

__all__ = ["Workspaces", "remove_tree"]

log: Final = logging.getLogger(__name__)


class Workspaces:
    """A folder with those of the sandboxes that have theirs on the host.

    `places` is how many sandboxes there are at a time. Each can have its folder removed without
    waiting for another's: one that is very deep takes its own place for so long, and no other.
    """

    def __init__(self, path: Path, *, places: int) -> None:
        self.path = path
        path.mkdir()
        path.chmod(0o711)  # whatever the service's umask is
        # Of its own, so that what is slow to remove delays nothing else that runs in threads.
        self._threads = ThreadPoolExecutor(places, "streamer-folders")

    @asynccontextmanager
    async def lend(
        self, name: str, identity: Identity | None, *, on_host: bool
    ) -> AsyncIterator[Path]:
        """Make the folder of one sandbox, if it needs one, and remove it afterwards.

        To be left only when no process of the sandbox is alive.
        """
        path = self.path / name
        if not on_host:
            yield path
            return
        path.mkdir(mode=0o700)
        if identity is not None:
            os.chown(path, identity.uid, identity.gid)
        try:
            yield path
        finally:
            await asyncio.get_running_loop().run_in_executor(self._threads, remove_tree, path)

    def close(self) -> None:
        """Begin no other removal. A thread that waits for a disk is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def remove_tree(path: Path) -> None:
    """Remove a folder that a job has filled, whatever its modes, depth and names are."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # Folders without permissions, or deeper than Python's stack or a path may be long:
        # rm(1) walks by descriptors.
        if not path.is_symlink():  # the one link that chmod -R follows
            subprocess.run(["chmod", "-R", "u+rwX", "--", path], check=False, capture_output=True)
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            log.error("%s cannot be removed: %s", path, said)

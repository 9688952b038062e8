"""Create and remove workspaces of sandboxes in folders on the host."""

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
    """The folder with the workspaces that are on the host.

    `places` is the most sandboxes at a time. There is a thread for each, so that a very deep
    workspace, which takes long to remove, blocks only its own place.
    """

    def __init__(self, path: Path, *, places: int) -> None:
        self.path = path
        path.mkdir()
        path.chmod(0o711)  # the service's umask may be stricter
        # A separate executor, so that slow removals delay no other work in threads.
        self._threads = ThreadPoolExecutor(places, "streamer-folders")

    @asynccontextmanager
    async def lend(
        self, name: str, identity: Identity | None, *, on_host: bool
    ) -> AsyncIterator[Path]:
        """Create the folder of one sandbox, if it needs one, and remove it at the end.

        Leave the block only when no process of the sandbox is alive.
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
        """Start no further removals. Does not wait for a thread that waits for a disk."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def remove_tree(path: Path) -> None:
    """Remove a folder that a job has filled, whatever its modes, depth and names."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # Folders may lack permissions, or be deeper than Python's stack or the length of a path
        # allows: rm(1) walks by descriptors.
        if not path.is_symlink():  # chmod -R would follow this link
            subprocess.run(["chmod", "-R", "u+rwX", "--", path], check=False, capture_output=True)
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            log.error("%s cannot be removed: %s", path, said)

"""Own the service's folder on the host: the sandboxes' root directory and the jobs' files."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from streamer.errors import BackendUnavailable
from streamer.spi import Host, Identity

__all__ = ["StateFolder", "remove_tree", "state_folder"]

ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/work:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""What a sandbox sees of /etc besides links into the host's: nothing of the host's users."""

MOUNT_POINTS: Final = ("dev", "proc", "tmp", "work", "usr", "etc")
SYSTEM_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
ETC_MOUNTS: Final = ("alternatives", "ld.so.cache", "ssl/certs", "localtime", "java-*")
"""Parts of the host's /etc that programs under /usr need; mounted where the host has them.

Never /etc/ssl itself, which holds private keys.
"""


class StateFolder:
    """The folder of one running service. Nothing in it outlives the service."""

    def __init__(self, path: Path, init: Path) -> None:
        self.path = path
        etc = [found for name in ETC_MOUNTS for found in sorted(Path("/etc").glob(name))]
        # A copy that every user can reach: the package may lie in somebody's home.
        shutil.copy(init, path / "init")
        (path / "init").chmod(0o755)
        self.host = Host(
            init=path / "init",
            rootfs=path / "rootfs",
            etc=tuple(map(str, etc)),
            root=os.geteuid() == 0,
        )
        self._jobs = path / "jobs"
        self._jobs.mkdir(mode=0o711)
        _build_rootfs(self.host.rootfs, etc)

    @asynccontextmanager
    async def workspace(
        self, job_id: str, identity: Identity | None, *, on_host: bool
    ) -> AsyncIterator[Path]:
        """Make the folder of one job, if its backend needs one, and remove it afterwards.

        To be left only when no process of the job is alive.
        """
        path = self._jobs / job_id
        if not on_host:
            yield path
            return
        path.mkdir(mode=0o700)
        if identity is not None:
            os.chown(path, identity.uid, identity.gid)
        try:
            yield path
        finally:
            await asyncio.to_thread(remove_tree, path)


@contextmanager
def state_folder(configured: str) -> Iterator[StateFolder]:
    """Make the service's folder, under the configured one or the temporary one."""
    with as_file(files("streamer") / "init" / "streamer-init") as init:
        if not os.access(init, os.X_OK):
            raise BackendUnavailable(
                "streamer/init/streamer-init is not built: install the package (pip install .), "
                "which needs a C compiler, or run `make setup` in the repository"
            )
        if configured:
            Path(configured).mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="streamer-", dir=configured or None))
        # Others pass through, to their own folder inside, and cannot list.
        path.chmod(0o711)
        try:
            yield StateFolder(path, init)
        finally:
            remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a folder that a job has filled, whatever its modes, depth and names are."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # Folders without permissions, or deeper than Python's stack or a path may be long:
        # rm(1) walks by descriptors. Neither command follows links.
        subprocess.run(["chmod", "-R", "u+rwX", "--", path], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", "--", path], check=False)


def _build_rootfs(root: Path, etc: Sequence[Path]) -> None:
    """Make the read-only root of a sandbox: one bind mount instead of many, and tighter."""
    root.mkdir(mode=0o755)
    for name in MOUNT_POINTS:
        (root / name).mkdir(mode=0o755)
    for name in SYSTEM_LINKS:
        host = Path("/", name)
        if host.is_symlink():
            (root / name).symlink_to(host.readlink())
        elif host.is_dir():
            (root / name).mkdir(mode=0o755)
    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    for host in etc:
        inside = root / host.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if host.is_dir():
            inside.mkdir(mode=0o755)
        else:
            inside.touch()
    (root / "init").touch()

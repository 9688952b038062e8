"""Own the service's folder on the host: the sandboxes' root directory and the jobs' files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from streamer.errors import BackendUnavailable, ConfigError
from streamer.spi import Host, Identity

__all__ = ["StateFolder", "remove_tree", "state_folder"]

log: Final = logging.getLogger(__name__)

ETC: Final = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/work:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""What a sandbox sees of /etc besides links into the host's: nothing of the host's users."""

PREFIX: Final = "streamer-"
SWEEP_AGE_S: Final = 1.0

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
            _check_passable(Path(configured))
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=configured or None))
        _sweep(path.parent)
        with _locked(path) as ours:
            assert ours
            # Others pass through, to their own folder inside, and cannot list.
            path.chmod(0o711)
            try:
                yield StateFolder(path, init)
            finally:
                remove_tree(path)


def _check_passable(folder: Path) -> None:
    """Raise `ConfigError` where the users that jobs of a root service run as cannot get in."""
    if os.geteuid() != 0:
        return
    for place in (folder.resolve(), *folder.resolve().parents):
        if not place.stat().st_mode & 0o001:
            raise ConfigError(
                f"server.state_dir: {place} is closed to other users, and jobs run as one; "
                f"`chmod o+x {place}` lets them pass, or choose another folder"
            )


def _sweep(parent: Path) -> None:
    """Remove the folders of services that were killed; one in use is locked (flock(2))."""
    for folder in parent.glob(f"{PREFIX}*"):
        # Only what looks like ours, and was there before: a service makes, then locks.
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > SWEEP_AGE_S
            if old and folder.stat().st_uid == os.geteuid() and (folder / "rootfs").is_dir():
                with _locked(folder) as abandoned:
                    if abandoned:
                        log.warning("removing what a killed service left: %s", folder)
                        remove_tree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a service's folder, if it is free."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except BlockingIOError:
            ours = False
        yield ours
    finally:
        os.close(lock)


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

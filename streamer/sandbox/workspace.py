"""Own the service's folder on the host: the sandboxes' root directory and the jobs' files."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from streamer.errors import BackendUnavailable, ConfigError
from streamer.sandbox.rootfs import build_rootfs, host_of, shown
from streamer.spi import Identity, Shown

__all__ = ["StateFolder", "remove_tree", "state_folder"]

log: Final = logging.getLogger(__name__)

PREFIX: Final = "streamer-"
SWEEP_AGE_S: Final = 1.0


class StateFolder:
    """The folder of one running service. Nothing in it outlives the service.

    `places` is how many jobs run at a time. Each can have its folder removed without waiting for
    another's: one that is very deep takes its job's own place for so long, and no other.
    """

    def __init__(self, path: Path, init: Path, *, places: int) -> None:
        self.path = path
        # A copy that every user can reach: the package may lie in somebody's home.
        shutil.copy(init, path / "init")
        (path / "init").chmod(0o755)
        self.host = host_of(path / "rootfs", path / "init")
        self._jobs = path / "jobs"
        self._jobs.mkdir()
        self._jobs.chmod(0o711)  # whatever the service's umask is
        # Of its own, so that what is slow to remove delays nothing else that runs in threads.
        self._threads = ThreadPoolExecutor(places, "streamer-folders")
        build_rootfs(self.host.rootfs)
        self._shown: dict[tuple[object, ...], tuple[int, tuple[Shown, ...]]] = {}

    def shown(
        self, read_only: tuple[str, ...], etc: tuple[str, ...], *, network: bool
    ) -> tuple[Shown, ...]:
        """Return what a job is shown besides the system's folders (`streamer.sandbox.rootfs`).

        Looked at anew when names in /etc have come or gone: it takes a millisecond.
        """
        key = (read_only, etc, network)
        changed = Path("/etc").stat().st_mtime_ns
        if key not in self._shown or self._shown[key][0] != changed:
            self._shown[key] = (changed, shown(self.host, read_only, etc, network=network))
        return self._shown[key][1]

    @asynccontextmanager
    async def workspace(
        self, name: str, identity: Identity | None, *, on_host: bool
    ) -> AsyncIterator[Path]:
        """Make the folder of one job, if its backend needs one, and remove it afterwards.

        To be left only when no process of the job is alive.
        """
        path = self._jobs / name
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
        """Remove the folder. A thread that waits for a disk is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        remove_tree(self.path)


@contextmanager
def state_folder(configured: str, *, places: int = 1) -> Iterator[StateFolder]:
    """Make the service's folder, under the configured one or the temporary one."""
    with as_file(files("streamer.sandbox") / "init" / "streamer-init") as init:
        if not os.access(init, os.X_OK):
            raise BackendUnavailable(
                "streamer/sandbox/init/streamer-init is not built: install the package "
                "(pip install .), which needs a C compiler, or run `make setup` in the repository"
            )
        try:
            if configured:
                _make_passable(Path(configured))
                _check_passable(Path(configured))
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=configured or None))
        except OSError as error:
            where = error.filename or configured or tempfile.gettempdir()
            raise ConfigError(
                f"server.state_dir: {where}: {error.strerror}; name a folder that the service may "
                "write to"
            ) from error
        _sweep(path.parent)
        with _locked(path) as ours:
            assert ours
            # Others pass through, to their own folder inside, and cannot list.
            path.chmod(0o711)
            opened = None
            try:
                opened = StateFolder(path, init, places=places)
                yield opened
            finally:
                if opened is None:
                    remove_tree(path)
                else:
                    opened.close()


def _make_passable(folder: Path) -> None:
    """Make a folder, and those above it, that others may pass through, whatever the umask is."""
    if not folder.is_dir():
        _make_passable(folder.parent)
        try:
            folder.mkdir()
            folder.chmod(0o755)
        except FileExistsError:
            if not folder.is_dir():  # else another service was quicker
                raise


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
        # Only what looks like ours, and was there before: a service makes, then locks. A link
        # may be anybody's, and lead to a folder that is ours and nothing to do with this.
        with contextlib.suppress(OSError):
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            old = time.time() - found.st_mtime > SWEEP_AGE_S
            if ours and old and stat.S_ISDIR((folder / "rootfs").lstat().st_mode):
                with _locked(folder) as abandoned:
                    if abandoned:
                        log.warning("removing what a killed service left: %s", folder)
                        remove_tree(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a service's folder, if it is free."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
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
        # rm(1) walks by descriptors.
        if not path.is_symlink():  # the one link that chmod -R follows
            subprocess.run(["chmod", "-R", "u+rwX", "--", path], check=False, capture_output=True)
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", "--", path], check=False, capture_output=True
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-500:]
            log.error("%s cannot be removed: %s", path, said)

"""The service's folder on the host: files that all sandboxes show, and workspaces."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from streamer.errors import BackendUnavailable, ConfigError
from streamer.sandbox.host.rootfs import build_rootfs, host_of, shown
from streamer.sandbox.host.workspace import Workspaces, remove_tree
from streamer.spi import Shown

__all__ = ["StateFolder", "locked", "make_passable", "state_folder", "sweep"]

log: Final = logging.getLogger(__name__)

PREFIX: Final = "streamer-"
SWEEP_AGE_S: Final = 1.0


class StateFolder:
    """The folder of one running service; it is removed with the service."""

    def __init__(self, path: Path, init: Path, *, places: int) -> None:
        """`places` is the most sandboxes at a time."""
        self.path = path
        # A copy that every user can reach: the package may be in a private home.
        shutil.copy(init, path / "init")
        (path / "init").chmod(0o755)
        self.host = host_of(path / "rootfs", path / "init")
        build_rootfs(self.host.rootfs)
        self.workspaces = Workspaces(path / "jobs", places=places)
        self._shown: dict[tuple[object, ...], tuple[tuple[int, ...], tuple[Shown, ...]]] = {}

    def shown(
        self, read_only: tuple[str, ...], etc: tuple[str, ...], *, network: bool
    ) -> tuple[Shown, ...]:
        """Return what a sandbox shows besides the system's folders (`rootfs`).

        It takes a millisecond, so it is repeated only if a name in /etc, or one of these paths, was
        added or removed.
        """
        key = (read_only, etc, network)
        there = (os.path.exists(path.removeprefix("-")) for path in read_only)  # noqa: PTH110 - below
        changed = (os.stat("/etc").st_mtime_ns, *there)  # noqa: PTH116 - for each job, so quickly
        if key not in self._shown or self._shown[key][0] != changed:
            self._shown[key] = (changed, shown(self.host, read_only, etc, network=network))
        return self._shown[key][1]

    def close(self) -> None:
        self.workspaces.close()
        remove_tree(self.path)


@contextmanager
def state_folder(configured: str, *, places: int = 1) -> Iterator[StateFolder]:
    """Create the service's folder, in the configured folder or the one for temporary files."""
    with as_file(files("streamer.sandbox") / "init" / "streamer-init") as init:
        if not os.access(init, os.X_OK):
            raise BackendUnavailable(
                "streamer/sandbox/init/streamer-init is not built: install the package "
                "(pip install .), which needs a C compiler, or run `make setup` in the repository"
            )
        try:
            if configured:
                make_passable(Path(configured))
                _check_passable(Path(configured))
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=configured or None))
        except OSError as error:
            where = error.filename or configured or tempfile.gettempdir()
            raise ConfigError(
                f"server.state_dir: {where}: {error.strerror}; use a folder that the service may "
                "write to"
            ) from error
        sweep(path.parent, PREFIX, "rootfs")
        with locked(path) as ours:
            assert ours
            # Others may pass through to their own folder inside, but cannot list it.
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


def make_passable(folder: Path) -> None:
    """Create a folder and its parents so that others may pass through, whatever the umask."""
    if not folder.is_dir():
        make_passable(folder.parent)
        try:
            folder.mkdir()
            folder.chmod(0o755)
        except FileExistsError:
            if not folder.is_dir():  # otherwise another service was faster
                raise


def _check_passable(folder: Path) -> None:
    """Raise `ConfigError` if the users that jobs of a root service run as cannot enter it."""
    if os.geteuid() != 0:
        return
    for place in (folder.resolve(), *folder.resolve().parents):
        if not place.stat().st_mode & 0o001:
            raise ConfigError(
                f"server.state_dir: {place} is closed to other users, and jobs run as such; "
                f"allow it with `chmod o+x {place}`, or use another folder"
            )


def sweep(parent: Path, prefix: str, mark: str) -> None:
    """Remove the folders of killed services; a folder in use is locked (flock(2)).

    Those of a kind begin with `prefix`, and have a folder with the name `mark` in them.
    """
    for folder in parent.glob(f"{prefix}*"):
        # Only folders that look like ours and are not new: a service creates one, then locks it.
        # A symbolic link may be anybody's, and point to an unrelated folder of ours.
        with contextlib.suppress(OSError):
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
            old = time.time() - found.st_mtime > SWEEP_AGE_S
            if ours and old and stat.S_ISDIR((folder / mark).lstat().st_mode):
                with locked(folder) as abandoned:
                    if abandoned:
                        log.warning("removing the folder of a killed service: %s", folder)
                        remove_tree(folder)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a service's folder; yields False if another service has it."""
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

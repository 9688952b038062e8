"""Find where the service may create control groups, and create its own for those of sandboxes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamer.sandbox.cgroups import v1, v2
from streamer.sandbox.cgroups.cgroup import Cgroup, Level
from streamer.sandbox.cgroups.files import clear
from streamer.sandbox.cgroups.v1 import HIERARCHIES, SHARING, CgroupV1
from streamer.sandbox.cgroups.v2 import (
    CONTROLLERS,
    MAIN,
    CgroupV2,
    admit,
    hand_down,
    hands_down,
    ownership,
    share,
)

__all__ = ["CgroupTree", "cgroup_tree", "leave_delegated"]

log: Final = logging.getLogger(__name__)

PREFIX: Final = "streamer-"
TEMPLATES: Final = "templates"
"""The group of a user's templates, beside those of its sandboxes."""

MAKE_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class CgroupTree:
    """The service's group in each hierarchy, below which each sandbox has its own."""

    level: Level
    roots: tuple[Path, ...]
    """Version 1: one for each of `HIERARCHIES`, in order, and perhaps one for `SHARING`;
    version 2: one."""

    @property
    def by_user(self) -> bool:
        """Whether the groups of one user's sandboxes, and of its templates, have one in common.

        A template clones its sandboxes into their groups (`CgroupV2.clone_folder`), which the
        kernel allows only to who may write to the ``cgroup.procs`` of that group and of the common
        one. In version 1, and if the user is that of this process, nothing need be allowed.
        """
        return self.level == "cgroup-v2" and os.geteuid() == 0

    def group(self, name: str, uid: int | None = None) -> Cgroup:
        """Return the group of a sandbox with this name; it is not made yet.

        `uid` is the user whose templates may make the sandbox, if groups are `by_user`.
        """
        if uid is not None:
            return CgroupV2((self._of_user(uid) / name,), uid)
        folders = tuple(root / name for root in self.roots)
        return CgroupV1(folders) if self.level == "cgroup-v1" else CgroupV2(folders)

    def template_entry(self, uid: int) -> tuple[str, ...]:
        """Return the options with which a user's template is started, if groups are `by_user`."""
        folder = self._of_user(uid) / TEMPLATES
        folder.mkdir(exist_ok=True)
        # Slow (`CgroupV2.entry`), but there is no process that only waits for the template.
        return (f"--cgroup={folder}/cgroup.procs",)

    def _of_user(self, uid: int) -> Path:
        folder = self.roots[0] / f"user-{uid}"
        folder.mkdir(exist_ok=True)
        hand_down(folder)
        share(folder)
        admit(folder, uid)
        return folder


@contextmanager
def cgroup_tree(configured: str, weight: int) -> Iterator[CgroupTree | None]:
    """Create the service's groups, or yield None if that is impossible.

    `configured` is ``auto``, ``off``, or the path of a delegated group of version 2; `weight` that
    of all jobs together (``sandbox.cpu_weight``). Groups of killed services are removed first. A
    lock on its folder protects a group in use; the lock ends with its service.
    """
    with contextlib.ExitStack() as stack:
        tree = None
        if configured != "off":
            for level, parents in _candidates(configured):
                try:
                    _sweep(parents)
                    if level == "cgroup-v2":
                        hand_down(parents[0])
                    roots = _service_groups(stack, parents)
                    if level == "cgroup-v2":
                        hand_down(roots[0])
                        _check_entry(roots[0])
                        for folder in (*parents, *roots):
                            share(folder)
                        v2.weigh(roots[0], weight)
                    else:
                        v1.weigh(roots[-1], weight)
                except OSError as error:
                    if configured == "auto":
                        log.info("no %s: %s", level, error)
                    else:
                        log.warning(
                            "sandbox.cgroup = %r cannot be used, so memory and processes are "
                            "only polled: %s; sandbox.require can make it mandatory",
                            configured,
                            error,
                        )
                    stack.close()
                    continue
                tree = CgroupTree(level, roots)
                break
        yield tree


def leave_delegated(configured: str) -> None:
    """Move this process out of the group that is to be divided, before it forks others.

    A service of several processes may then divide it where that of one process may: in a group
    that nobody has marked as delegated it must be alone.
    """
    if configured == "off":
        return
    for level, parents in _candidates(configured):
        if level == "cgroup-v2":
            with contextlib.suppress(OSError):  # as each process will find, and log
                hand_down(parents[0])
            return


def _candidates(configured: str) -> Iterator[tuple[Level, tuple[Path, ...]]]:
    """Yield where groups could be created, the best first."""
    if configured not in ("auto", "off"):
        yield "cgroup-v2", (Path(configured),)
        return
    own = dict(_own_groups())
    mounts = dict(_mounts())
    if "" in own and "" in mounts:
        folder = mounts[""] / own[""].lstrip("/")
        with contextlib.suppress(OSError):
            if folder.name == MAIN and hands_down(folder.parent):
                folder = folder.parent  # this process, or an earlier one, has moved there
            if set(CONTROLLERS) <= set((folder / "cgroup.controllers").read_text().split()):
                if ownership(folder) == "systemd's":
                    log.info("no cgroup-v2: systemd has not delegated %s", folder)
                else:
                    yield "cgroup-v2", (folder,)
    if all(name in own and name in mounts for name in HIERARCHIES):
        names = [n for n in (*HIERARCHIES, SHARING) if n in own and n in mounts]
        folders = dict.fromkeys(mounts[name] / own[name].lstrip("/") for name in names)
        yield "cgroup-v1", tuple(folders)  # cpu and cpuacct are one folder on most hosts


def _check_entry(root: Path) -> None:
    """Check that the processes of this service can enter the groups below `root`.

    To move itself, a process must also be allowed to write to the ``cgroup.procs`` of the nearest
    common ancestor (cgroup-v2.rst, "Delegation Containment"). Raises PermissionError.
    """
    here = dict(_mounts())[""] / dict(_own_groups())[""].lstrip("/")
    common = Path(os.path.commonpath([here, root]))
    if not os.access(common / "cgroup.procs", os.W_OK):
        raise PermissionError(
            errno.EACCES, f"this process, which is in {here}, may not enter groups below {root}"
        )


def _own_groups() -> Iterator[tuple[str, str]]:
    """Yield (controller, path) of this process's groups; ``""`` is version 2 (cgroups(7))."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _mounts() -> Iterator[tuple[str, Path]]:
    """Yield (controller, mount point) of the mounted hierarchies (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split(" ")[4])
        if kind == "cgroup2":
            yield "", place
        elif kind == "cgroup":
            for option in options.split(","):
                yield option, place


def _service_groups(stack: contextlib.ExitStack, parents: Sequence[Path]) -> tuple[Path, ...]:
    """Create groups with one name below each parent; `stack` removes them.

    Another service that starts at this moment may take a group that is not locked yet for an
    abandoned one, and remove it. Then it is tried again with other names.
    """
    for _ in range(MAKE_TRIES):
        name = PREFIX + secrets.token_hex(6)
        with contextlib.ExitStack() as made, contextlib.suppress(_Swept):
            roots = tuple(made.enter_context(_service_group(parent / name)) for parent in parents)
            stack.enter_context(made.pop_all())
            return roots
    raise OSError(errno.EAGAIN, f"other services keep removing new groups in {parents[0]}")


class _Swept(Exception):
    """Another service removed a new group before it was locked."""


@contextmanager
def _service_group(folder: Path) -> Iterator[Path]:
    """Create a group, and hold its lock. Raises `_Swept`."""
    folder.mkdir()
    try:
        lock = _lock(folder)
    except (FileNotFoundError, BlockingIOError):
        raise _Swept from None
    try:
        if not folder.exists():
            raise _Swept
        yield folder
    finally:
        _clear(folder)
        os.close(lock)


def _lock(folder: Path) -> int:
    """Lock a group's folder (flock(2)). Raises BlockingIOError if it is in use."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    return lock


def _sweep(parents: Sequence[Path]) -> None:
    """Remove the groups of dead services, and kill what still runs in them.

    Those of other accounts are left alone.
    """
    said: set[str] = set()
    for folder in (folder for parent in parents for folder in parent.glob(f"{PREFIX}*")):
        try:
            if os.geteuid() not in (0, folder.stat().st_uid):
                continue
            lock = _lock(folder)
        except OSError:
            continue
        try:
            if folder.name not in said:  # in version 1 each hierarchy has one
                log.warning("removing the control groups of a killed service: %s", folder.name)
            said.add(folder.name)
            _clear(folder)
        finally:
            os.close(lock)


def _clear(folder: Path) -> None:
    if not clear(folder):
        log.error("the cgroup %s cannot be removed: a process in it does not die", folder)

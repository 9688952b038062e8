"""Prepare what a sandbox with its own root shows of the host.

Programs need many things in /etc: names of ports, certificates, fonts, the time zone. They get
those of the host, but nothing that reveals its accounts or secrets.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from streamer.model.runtime import is_secret
from streamer.spi import Host, Shown

__all__ = ["SYSTEM", "build_rootfs", "host_of", "shown"]

SYSTEM: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Top-level folders of a distribution's programs; today most are symbolic links into /usr."""

SYNTHETIC: Final = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/work:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""Replacements for files in /etc that would reveal the host's users and network."""

COPIED: Final = (
    *("services", "protocols", "rpc", "ethertypes", "host.conf", "gai.conf"),
    *("mime.types", "magic", "magic.mime", "locale.alias", "inputrc"),
    *("os-release", "lsb-release", "debian_version", "timezone", "localtime"),
    *("ssl/openssl.cnf", "pki/tls/openssl.cnf"),
)
"""Small files in /etc, copied when the service starts: mounting each would cost every job time."""

MOUNTED: Final = (
    *("alternatives", "ld.so.cache", "fonts", "java-*", "crypto-policies"),
    *("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted"),
)
"""Names in /etc that packages change while the service runs. Not /etc/ssl: it has private keys."""

COPY_BYTES: Final = 1024 * 1024
MOST_PARTS: Final = 1000
"""The most parts of a path with all its links resolved; only a circular link has more."""

TOPOLOGY: Final = (
    *("core_id", "physical_package_id", "die_id", "thread_siblings", "thread_siblings_list"),
    *("core_siblings", "core_siblings_list", "core_cpus", "core_cpus_list"),
)


def host_of(folder: Path, init: Path) -> Host:
    """Return the facts about this host for backends; prepared files are in `folder`."""
    links, folders = [], []
    for name in SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            links.append((str(path), str(path.readlink())))
        elif path.is_dir():
            folders.append(str(path))
    return Host(
        init=init,
        rootfs=folder,
        etc=tuple(f"/etc/{name}" for name in COPIED if Path("/etc", name).exists()),
        folders=tuple(folders),
        links=tuple(links),
        others=tuple(sorted(str(path) for path in Path("/").iterdir() if path.name not in SYSTEM)),
        root=os.geteuid() == 0,
    )


def build_rootfs(root: Path) -> None:
    _make_folders(root / "etc")
    for name, text in SYNTHETIC.items():
        _write(root / "etc" / name, text.encode())
    for name in COPIED:
        _copy(Path("/etc", name), root / "etc" / name)
    # glibc, nproc(1) and lscpu(1) read the number of processors here; /proc/cpuinfo has it too.
    cpus = Path("sys/devices/system/cpu")
    _make_folders(root / cpus)
    names = ["online", "possible", "present", "kernel_max"]
    for cpu in Path("/", cpus).glob("cpu[0-9]*"):
        names += [f"{cpu.name}/topology/{name}" for name in TOPOLOGY]
    for name in names:
        _copy(Path("/", cpus, name), root / cpus / name)


def shown(
    host: Host, read_only: Iterable[str], etc: Iterable[str], *, network: bool
) -> tuple[Shown, ...]:
    """Return what a job is shown besides the system's folders, as the host is now.

    `read_only` are paths of the host, perhaps behind a ``-`` that says that they may be missing,
    `etc` patterns of names in /etc. Necessary mount points below ``/etc`` and ``/sys`` are created
    in the prepared folder.
    """
    view = _View(host)
    for pattern in (*MOUNTED, *etc, *(("resolv.conf",) if network else ())):
        for path in sorted(Path("/etc").glob(pattern)):
            if not is_secret(str(path.relative_to("/etc"))):
                view.show(path)
    # Folders before their content.
    for name in sorted({os.path.normpath(name.removeprefix("-")) for name in read_only}):
        view.show(Path(name))
    return tuple(view.shown)


class _View:
    """What the sandbox shows so far, to resolve symbolic links in it."""

    def __init__(self, host: Host) -> None:
        self._links = {Path(path): target for path, target in host.links}
        self._rootfs = host.rootfs
        # Mount points in the sandbox, and the paths of the host that are mounted there.
        self._trees = {Path(folder): Path(folder) for folder in host.folders}
        self._trees |= {Path("/", name): host.rootfs / name for name in ("etc", "sys")}
        self.shown: list[Shown] = []

    def show(self, path: Path) -> None:
        if not path.exists():
            return
        target = self._resolve(path)
        behind = self._behind(target)
        if behind is not None and os.path.realpath(behind) == os.path.realpath(path):
            return  # already shown, with a folder above it
        if behind is not None and behind.is_relative_to(self._rootfs):
            _mount_point(behind, folder=path.is_dir())
        self._trees[target] = path
        self.shown.append(Shown(str(path), str(target)))

    def _resolve(self, path: Path) -> Path:
        """Resolve the links that the sandbox shows; other parts of the path do not exist yet."""
        rest, at = list(path.parts[1:]), Path("/")
        for _ in range(MOST_PARTS):
            if not rest:
                break
            part = rest.pop(0)
            candidate = at.parent if part == ".." else at / part
            link = self._link_at(candidate)
            if link is None:
                at = candidate
            else:
                rest = [*link.parts[link.is_absolute() :], *rest]
                at = Path("/") if link.is_absolute() else at
        return at

    def _link_at(self, candidate: Path) -> Path | None:
        if candidate in self._links:
            return Path(self._links[candidate])
        behind = self._behind(candidate)
        return behind.readlink() if behind is not None and behind.is_symlink() else None

    def _behind(self, target: Path) -> Path | None:
        """Return the path of the host that is mounted at a path of the sandbox, if any."""
        for tree in (target, *target.parents):
            if tree in self._trees:
                return self._trees[tree] / target.relative_to(tree)
        return None


def _copy(host: Path, copy: Path) -> None:
    """Copy a small world-readable file; a symbolic link into /usr stays a link."""
    with contextlib.suppress(OSError):
        if host.is_symlink() and host.resolve().is_relative_to("/usr"):
            _make_folders(copy.parent)
            copy.symlink_to(host.readlink())
            return
        found = host.stat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o004 and found.st_size <= COPY_BYTES:
            _write(copy, host.read_bytes())


def _write(path: Path, content: bytes) -> None:
    _make_folders(path.parent)
    path.write_bytes(content)
    path.chmod(0o644)  # the service's umask may be stricter


def _make_folders(path: Path) -> None:
    if not path.is_dir():
        _make_folders(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _mount_point(path: Path, *, folder: bool) -> None:
    if folder:
        _make_folders(path)
    elif not path.exists():
        _write(path, b"")

"""Confine programs with bubblewrap: they see only what is mounted for them.

bubblewrap is a toolkit whose protection is "entirely determined by the arguments passed"
(its SECURITY.md); every argument here says what it is for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from streamer.spi import (
    Backend,
    BackendUnavailable,
    Host,
    Isolation,
    LaunchPlan,
    SandboxJob,
    hookimpl,
)

__all__ = ["Bwrap"]


@dataclass(frozen=True)
class Bwrap(Backend):
    """bubblewrap with all namespaces unshared, and a private workspace.

    Options: `path` of the command, `tmp_bytes` for the size of /tmp.
    """

    name: ClassVar[str] = "bwrap"
    isolation: ClassVar[Isolation] = Isolation.NAMESPACES
    host_workspace: ClassVar[bool] = False
    seccomp: ClassVar[bool] = True

    path: str = "/usr/bin/bwrap"
    tmp_bytes: int = 64 * 1024 * 1024

    async def probe(self, host: Host) -> None:
        """Check that the command exists; the test run shows whether it works."""
        if not os.access(self.path, os.X_OK):
            raise BackendUnavailable(
                f"{self.path} is not installed: install the package bubblewrap, "
                "or set sandbox.bwrap.path"
            )

    def explain(self, wrapper_exit: int, wrapper_stderr: str) -> str | None:
        """Name the usual reason: the host forbids unprivileged user namespaces."""
        if "new namespace" in wrapper_stderr or "uid map" in wrapper_stderr:
            return (
                f"{wrapper_stderr.strip()}: this host forbids ordinary users to create user "
                "namespaces; allow it (sysctl user.max_user_namespaces, on Debian "
                "kernel.unprivileged_userns_clone=1, on Ubuntu 24.04 and later the AppArmor "
                "profile bwrap-userns-restrict; `streamer doctor` says how)"
            )
        return None

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        """Return the command line; later mounts cover earlier ones."""
        host = job.host
        arguments: list[str] = [
            self.path,
            "--unshare-user",  # no user and no capability of the host
            "--unshare-pid",  # it sees only its own processes; they all die with the first
            "--unshare-ipc",  # no System V IPC or message queues of the host
            "--unshare-uts",  # its own host name
            "--unshare-cgroup",  # it does not see its place in the cgroup tree
            *(() if job.network else ("--unshare-net",)),  # no network, abstract sockets
            "--disable-userns",  # no nested user namespace: most kernel attack surface
            "--die-with-parent",  # it is killed when the service dies
            "--new-session",  # no terminal to push characters into (TIOCSTI)
            "--as-pid-1",  # our init reaps and reports; bwrap's own would lose the usage
            "--cap-drop", "ALL",  # no privileges inside its namespaces either
            "--cap-add", "CAP_SYS_RESOURCE",  # for our init, which sets a limit and then drops it
            "--uid", "65534", "--gid", "65534",  # nobody
            "--hostname", "sandbox",
        ]  # fmt: skip
        for folder in host.folders:
            arguments += ["--ro-bind", folder, folder]  # the system's programs and libraries
        for path, target in host.links:
            arguments += ["--symlink", target, path]
        arguments += [
            "--ro-bind", str(host.rootfs / "etc"), "/etc",  # no accounts, no secrets
            "--ro-bind", str(host.rootfs / "sys"), "/sys",  # the number of processors
            "--ro-bind", str(host.init), "/init",  # the only program of ours inside
            "--proc", "/proc",  # that of its own PID namespace
            *_masked(),  # they list the user's keys from all namespaces
            "--dev", "/dev",  # null, zero, full, random, urandom, tty
            "--ro-bind", "/dev/null", "/dev/pts/ptmx",  # the host has a limited number for all
            # Without a size it could fill the RAM. Its content counts as the job's memory.
            "--size", str(job.limits.memory_bytes), "--tmpfs", "/dev/shm",
            "--size", str(self.tmp_bytes), "--tmpfs", "/tmp",
            "--symlink", "../tmp", "/var/tmp",
            "--size", str(job.limits.disk_bytes), "--tmpfs", "/work",  # private, limited
        ]  # fmt: skip
        for one in job.shown:
            # Parts of the host's /etc, and what the runtime needs. A path may no longer exist.
            arguments += ["--ro-bind-try", one.source, one.target]
        arguments += [
            "--remount-ro", "/dev",  # otherwise a tmpfs without a size
            "--remount-ro", "/",  # the same
            "--chdir", "/work",
            "--", "/init", *job.argv[1:], "--bound",
        ]  # fmt: skip
        return LaunchPlan(
            argv=tuple(arguments),
            workspace="/work",
            start_as=job.identity,
            private_mounts=("/tmp", "/dev/shm"),
        )


def _masked() -> Sequence[str]:
    """Hide the files in /proc that list the user's keys, if the kernel has them."""
    return ("--ro-bind", "/dev/null", "/proc/keys") if Path("/proc/keys").exists() else ()


@hookimpl
def streamer_backends() -> list[type[Backend]]:
    return [Bwrap]

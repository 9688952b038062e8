"""Confine programs with bubblewrap: they see only what is mounted for them.

bubblewrap is a toolkit whose protection is "entirely determined by the arguments passed"
(its SECURITY.md); every argument here says what it is for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from streamer.spi import (
    Backend,
    BackendUnavailable,
    Host,
    Isolation,
    LaunchPlan,
    SandboxJob,
    TemplatePlan,
    hookimpl,
)

__all__ = ["Bwrap"]

WORK: Final = "/work"
"""The workspace, private and limited."""

MASKS: Final = ("/proc/keys",)
"""Files that list the user's keys, from all namespaces."""


@dataclass(frozen=True)
class Bwrap(Backend):
    """bubblewrap with all namespaces unshared, and a private workspace.

    Options: `path` of the command, `tmp_bytes` for the size of /tmp where a language has none of
    its own, `template` to start it once for many jobs, each of which still has namespaces of its
    own.
    """

    name: ClassVar[str] = "bwrap"
    isolation: ClassVar[Isolation] = Isolation.NAMESPACES
    host_workspace: ClassVar[bool] = False
    seccomp: ClassVar[bool] = True

    path: str = "/usr/bin/bwrap"
    tmp_bytes: int = 64 * 1024 * 1024
    template: bool = True

    async def probe(self, host: Host) -> None:
        """Check that the command exists; the test run shows whether it works."""
        if not os.access(self.path, os.X_OK):
            raise BackendUnavailable(
                f"{self.path} is not installed: install the package bubblewrap, "
                "or set sandbox.bwrap.path to its absolute path"
            )

    def terminals(self) -> bool:
        """Return True: our init brings a terminal along, of a devpts that the job cannot use."""
        return True

    def size_of_tmp(self) -> int | None:
        return self.tmp_bytes

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
        arguments: list[str] = [
            *self._namespaces(network=job.network),
            "--unshare-cgroup",  # it does not see its place in the cgroup tree
            # No nested user namespace: most kernel attack surface. For a terminal our init makes
            # two more, and then does the same.
            *(() if job.terminal else ("--disable-userns",)),
            "--cap-add", "CAP_SYS_RESOURCE",  # for our init, which sets a limit and then drops it
            *_system(job.host),
            *_masked(),  # they list the user's keys from all namespaces
            *_settled(),  # a job could write there
        ]  # fmt: skip
        for path, size in self._mounts(job):
            # Without a size it could fill the RAM. Its content counts as the job's memory.
            arguments += ["--size", str(size), "--tmpfs", path]
        arguments += [*_shown(job), "--chdir", WORK, "--", "/init", *job.argv[1:], "--bound"]
        return _launched(arguments, job)

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        """Return the same without what the init does for each job, and without any capability.

        A job with the host's network has its own bwrap, and so has one that is shown something
        where the job's file systems will be: they would cover it.
        """
        mounts = self._mounts(job)
        covered = ("/proc/", "/dev/pts/", *(f"{path}/" for path, _ in mounts))
        hidden = any(f"{one.target}/".startswith(covered) for one in job.shown)
        if not self.template or job.network or hidden:
            return None
        arguments = [*self._namespaces(network=False), *_system(job.host)]
        for path in ("/tmp", WORK):
            arguments += ["--dir", path]  # each job mounts its own there
        arguments += [*_shown(job), "--chdir", "/", "--", "/init", *job.argv[1:]]
        return TemplatePlan(_launched(arguments, job), mounts, masks=MASKS)

    def _namespaces(self, *, network: bool) -> list[str]:
        return [
            self.path,
            "--unshare-user",  # no user and no capability of the host
            "--unshare-pid",  # it sees only its own processes; they all die with the first
            "--unshare-ipc",  # no System V IPC or message queues of the host
            "--unshare-uts",  # its own host name
            *(() if network else ("--unshare-net",)),  # no network, abstract sockets
            "--die-with-parent",  # it is killed when the service dies
            "--new-session",  # no terminal to push characters into (TIOCSTI)
            "--as-pid-1",  # our init reaps and reports; bwrap's own would lose the usage
            "--cap-drop", "ALL",  # no privileges inside its namespaces either
            "--uid", "65534", "--gid", "65534",  # nobody
            "--hostname", "sandbox",
        ]  # fmt: skip

    def _mounts(self, job: SandboxJob) -> tuple[tuple[str, int], ...]:
        """Return the file systems that a job can write to, with their sizes."""
        limits = job.limits
        return (
            ("/dev/shm", limits.memory_bytes),
            ("/tmp", job.tmp_bytes or self.tmp_bytes),
            (WORK, limits.disk_bytes),
        )


def _system(host: Host) -> list[str]:
    arguments = []
    for folder in host.folders:
        arguments += ["--ro-bind", folder, folder]  # the system's programs and libraries
    for path, target in host.links:
        arguments += ["--symlink", target, path]
    return [
        *arguments,
        "--ro-bind", str(host.rootfs / "etc"), "/etc",  # no accounts, no secrets
        "--ro-bind", str(host.rootfs / "sys"), "/sys",  # the number of processors
        "--ro-bind", str(host.init), "/init",  # the only program of ours inside
        "--proc", "/proc",  # that of its own PID namespace
        "--dev", "/dev",  # null, zero, full, random, urandom, tty
        "--ro-bind", "/dev/null", "/dev/pts/ptmx",  # the host has a limited number for all
        "--symlink", "../tmp", "/var/tmp",
    ]  # fmt: skip


def _masked() -> list[str]:
    arguments = []
    for path in MASKS:
        if Path(path).exists():  # not in every kernel
            arguments += ["--ro-bind", "/dev/null", path]
    return arguments


def _settled() -> list[str]:
    """Let nobody change the settings of the namespaces, nor set a trigger for pressure.

    bwrap has been user 0 of the namespaces for a moment, who may change what IPC may take and the
    largest process id. Each trigger delays the end of its process by some milliseconds.
    """
    arguments = []
    for path in ("/proc/sys/kernel", "/proc/sys/fs", "/proc/pressure"):
        if Path(path).exists():  # not in every kernel
            arguments += ["--ro-bind", path, path]  # each sees those of its own namespaces
    return arguments


def _shown(job: SandboxJob) -> list[str]:
    """Show parts of the host's /etc, and what the runtime needs; after that nothing is mounted."""
    arguments = []
    for one in job.shown:
        arguments += ["--ro-bind-try", one.source, one.target]  # a path may no longer exist
    return [
        *arguments,
        "--remount-ro", "/dev",  # otherwise a tmpfs without a size
        "--remount-ro", "/",  # the same
    ]  # fmt: skip


def _launched(arguments: list[str], job: SandboxJob) -> LaunchPlan:
    return LaunchPlan(
        argv=tuple(arguments),
        workspace=WORK,
        start_as=job.identity,
        private_mounts=("/tmp", "/dev/shm"),
    )


@hookimpl
def streamer_backends() -> list[type[Backend]]:
    return [Bwrap]

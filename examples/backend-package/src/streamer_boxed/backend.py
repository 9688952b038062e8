"""bubblewrap with the least that a sandbox needs, and one sandbox for many jobs (a template)."""

from __future__ import annotations

import os
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
    TemplatePlan,
)


@dataclass(frozen=True)
class Boxed(Backend):
    """Run programs in bubblewrap; the backend `bwrap` of the service has what else it can do."""

    name: ClassVar[str] = "boxed"
    isolation: ClassVar[Isolation] = Isolation.NAMESPACES
    host_workspace: ClassVar[bool] = False  # a template has no folder of the host
    seccomp: ClassVar[bool] = True

    # Its options: [sandbox.boxed] of the configuration, or STREAMER_SANDBOX__BOXED__TMP_BYTES.
    path: str = "/usr/bin/bwrap"
    tmp_bytes: int = 64 * 1024 * 1024

    async def probe(self, host: Host) -> None:
        # Whether it works is tried with a program; this only says so in better words.
        if not os.access(self.path, os.X_OK):
            raise BackendUnavailable(f"{self.path} is not there", "install the package bubblewrap")

    def size_of_tmp(self) -> int:
        return self.tmp_bytes

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        private = ["--unshare-cgroup", "--disable-userns"]
        if not job.network:
            private.append("--unshare-net")
        for path, size in self.mounts(job):
            private += ["--size", str(size), "--tmpfs", path]
        return self.launch(job, *private, "--chdir", "/work")

    def template_plan(self, job: SandboxJob) -> TemplatePlan | None:
        mounts = self.mounts(job)
        covered = ("/proc/", *(f"{path}/" for path, _ in mounts))
        hidden = any(f"{one.target}/".startswith(covered) for one in job.shown)
        if job.network or hidden:
            # In a template the network of a job is always its own, and its file systems would
            # cover what it is to be shown below them.
            return None
        # Where each job gets its own file systems; those in /dev are there.
        folders = ("--dir", "/tmp", "--dir", "/work")
        launch = self.launch(job, "--unshare-net", *folders, "--chdir", "/")
        # Sizes are of a job, so they are not in the command: equal commands share a template.
        return TemplatePlan(launch, mounts, masks=("/proc/keys",))

    def mounts(self, job: SandboxJob) -> tuple[tuple[str, int], ...]:
        limits = job.limits
        return (
            ("/dev/shm", limits.memory_bytes),
            ("/tmp", job.tmp_bytes or self.tmp_bytes),
            ("/work", limits.disk_bytes),
        )

    def launch(self, job: SandboxJob, *private: str) -> LaunchPlan:
        host = job.host
        argv = [self.path, "--unshare-user", "--unshare-pid", "--unshare-ipc"]
        argv += ["--unshare-uts", "--die-with-parent", "--new-session", "--as-pid-1"]
        argv += ["--cap-drop", "ALL"]
        argv += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
        for folder in host.folders:
            argv += ["--ro-bind", folder, folder]
        for path, target in host.links:
            argv += ["--symlink", target, path]
        argv += ["--ro-bind", str(host.rootfs / "etc"), "/etc"]
        argv += ["--ro-bind", str(host.rootfs / "sys"), "/sys"]
        argv += ["--ro-bind", str(host.init), "/init", "--proc", "/proc", "--dev", "/dev", *private]
        for one in job.shown:
            argv += ["--ro-bind-try", one.source, one.target]
        argv += ["--remount-ro", "/dev", "--remount-ro", "/", "--", "/init", *job.argv[1:]]
        return LaunchPlan(
            argv=tuple(argv),
            workspace="/work",
            start_as=job.identity,
            private_mounts=("/tmp", "/dev/shm"),
        )

"""Read the facts of this host that decide whether sandboxes work, and say how to fix them.

Sources: sysctl user.max_user_namespaces (user_namespaces(7)), Debian's
kernel.unprivileged_userns_clone, AppArmor's restriction in Ubuntu 23.10 and later, the
setuid bit and mount flags of a wrapper (execve(2)), and cgroups(7).
"""

from __future__ import annotations

import os
import platform
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

__all__ = [
    "CgroupFacts",
    "HostFacts",
    "UserNamespaces",
    "WrapperFacts",
    "host_facts",
    "host_warnings",
    "remedies",
    "wrapper_facts",
    "wrapper_warnings",
]

VERSION: Final = re.compile(r"\d+\.\d+(\.\d+)?")
VERSION_TIMEOUT_S: Final = 5.0
SYSCTL: Final = Path("/proc/sys")
CGROUP_V2: Final = Path("/sys/fs/cgroup")
CGROUP_REMEDY: Final = (
    "give the service a delegated control group: Delegate=yes in its unit, or "
    "`systemd-run --user --scope -p Delegate=yes streamer serve`"
)
BWRAP: Final = "/usr/bin/bwrap"
APPARMOR_BWRAP: Final = (
    "this host allows user namespaces only with an AppArmor profile (Ubuntu 24.04 and "
    "later): load Ubuntu's own for bubblewrap, bwrap-userns-restrict. Later releases have it in "
    "/etc/apparmor.d; on 24.04 `apt install apparmor-profiles`, copy it from "
    "/usr/share/apparmor/extra-profiles to /etc/apparmor.d, then "
    "`apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict`"
)
APPARMOR_OTHER: Final = (
    "this host allows user namespaces only with an AppArmor profile (Ubuntu 24.04 and "
    "later): write a profile for {command} to /etc/apparmor.d/{name}, with the content "
    "`abi <abi/4.0>, include <tunables/global> profile {name} {command} flags=(unconfined) "
    "{{ userns, }}`, and load it with `apparmor_parser -r /etc/apparmor.d/{name}`"
)


class UserNamespaces(msgspec.Struct, frozen=True, rename="camel"):
    """The settings that decide who may create user namespaces; None if a setting does not exist."""

    max_user_namespaces: int | None
    unprivileged_userns_clone: int | None
    apparmor_restrict_unprivileged_userns: int | None


class CgroupFacts(msgspec.Struct, frozen=True, rename="camel"):
    """Whether jobs get control groups: their `level`, or the `reason` why not and the `remedy`."""

    level: str | None
    reason: str = ""
    remedy: str = ""


class WrapperFacts(msgspec.Struct, frozen=True, rename="camel"):
    """The command that starts a sandbox; `version` is empty if unknown."""

    command: str
    version: str
    setuid: bool


class HostFacts(msgspec.Struct, frozen=True, rename="camel"):
    """What is known before any probe is run."""

    system: str
    kernel: str
    machine: str
    root: bool
    no_new_privs: bool
    """Whether the service runs with no_new_privs, so that no setuid wrapper works."""
    user_namespaces: UserNamespaces
    cgroup: CgroupFacts
    core_pattern: str = ""
    """What the kernel does with the core dump of a program that crashed (core(5))."""


def host_facts(cgroup_level: str | None, cgroup_configured: str) -> HostFacts:
    """Read the facts of this host and of this process.

    `cgroup_level` is the level that jobs get with ``sandbox.cgroup = cgroup_configured``, or None.
    """
    return HostFacts(
        system=_system(),
        kernel=platform.release(),
        machine=platform.machine(),
        root=os.geteuid() == 0,
        no_new_privs="NoNewPrivs:\t1" in Path("/proc/self/status").read_text(),
        user_namespaces=UserNamespaces(
            max_user_namespaces=_setting("user/max_user_namespaces"),
            unprivileged_userns_clone=_setting("kernel/unprivileged_userns_clone"),
            apparmor_restrict_unprivileged_userns=_setting(
                "kernel/apparmor_restrict_unprivileged_userns"
            ),
        ),
        cgroup=_cgroup_facts(cgroup_level, cgroup_configured),
        core_pattern=_text("kernel/core_pattern"),
    )


def _cgroup_facts(level: str | None, configured: str) -> CgroupFacts:
    if level is not None:
        return CgroupFacts(level)
    if configured == "off":
        return CgroupFacts(None, "sandbox.cgroup is off", "set sandbox.cgroup to auto")
    if configured != "auto":
        return CgroupFacts(
            None,
            f"the control group {configured} (sandbox.cgroup) cannot be used",
            "it must exist, belong to the service's user, have the controllers memory and pids, "
            "and lie with the service's own group below one that is delegated to it",
        )
    if (CGROUP_V2 / "cgroup.controllers").exists():
        reason = "the service's control group is not delegated to it with memory and pids"
        return CgroupFacts(None, reason, CGROUP_REMEDY)
    if os.geteuid() != 0:
        reason = "this host has cgroups version 1, in which only root may create groups"
        return CgroupFacts(None, reason, "run the service as root, or boot with cgroups version 2")
    return CgroupFacts(
        None,
        "no writable hierarchy with the controllers memory and pids is mounted",
        "mount them (in a container: writable, with its own cgroup namespace)",
    )


def remedies(facts: HostFacts, name: str, command: str) -> Iterator[str]:
    """Yield what keeps a backend from working on this host, and how to fix it.

    `command` is the path of the wrapper that the backend `name` starts, or empty.
    """
    if not command or not os.access(command, os.X_OK):
        return
    mode = Path(command).stat().st_mode
    setuid = bool(mode & stat.S_ISUID)
    if setuid and facts.no_new_privs:
        yield (
            f"{command} is setuid and the service must not gain privileges: remove "
            "NoNewPrivileges=yes from its unit, or no-new-privileges from its container"
        )
    if setuid and os.statvfs(command).f_flag & os.ST_NOSUID:
        yield f"{command} is setuid on a file system mounted nosuid: mount that without nosuid"
    if name == "firejail" and not setuid:
        yield f"{command} is not setuid root, which firejail needs: `chmod u+s {command}`"
    if setuid:
        return
    # A root service too starts its sandboxes as users without privileges.
    namespaces = facts.user_namespaces
    if namespaces.max_user_namespaces == 0:
        yield "user namespaces are switched off: `sysctl user.max_user_namespaces=10000`"
    if namespaces.unprivileged_userns_clone == 0:
        yield (
            "this host forbids user namespaces to ordinary users: "
            "`sysctl kernel.unprivileged_userns_clone=1`"
        )
    if namespaces.apparmor_restrict_unprivileged_userns == 1:
        yield (
            APPARMOR_BWRAP
            if command == BWRAP
            else APPARMOR_OTHER.format(name=name, command=command)
        )


def host_warnings(facts: HostFacts) -> Iterator[str]:
    """Yield what jobs can use on this host in any sandbox."""
    if facts.core_pattern.startswith("|"):
        yield (
            f"each crash of a job starts {facts.core_pattern[1:].split()[0]} on the host, as root "
            "and outside of the job's limits (kernel.core_pattern; a core file limit of zero "
            "does not prevent it): with `sysctl kernel.core_pattern=core` the kernel writes files "
            "instead, and jobs leave none"
        )


def wrapper_facts(command: str) -> WrapperFacts | None:
    """Run a wrapper to get its version, which takes some milliseconds; None if not installed."""
    if not command or not os.access(command, os.X_OK):
        return None
    try:
        said = subprocess.run(
            [command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    found = VERSION.search(said)
    setuid = bool(Path(command).stat().st_mode & stat.S_ISUID)
    return WrapperFacts(command, found[0] if found else "", setuid)


def wrapper_warnings(name: str, facts: WrapperFacts) -> Iterator[str]:
    """Yield known problems of this version of a wrapper, and what they mean for jobs."""
    if name != "bwrap" or not facts.version:
        return
    version = tuple(map(int, facts.version.split(".")))
    if facts.setuid and (0, 11) <= version < (0, 11, 2):
        yield (
            "bubblewrap 0.11.0 and 0.11.1 have CVE-2026-41163 if they are setuid: any user of "
            f"this host can misuse {facts.command}; update it, or `chmod u-s {facts.command}`"
        )
    elif facts.setuid:
        yield (
            f"{facts.command} is setuid root, which it needs only if user namespaces are "
            f"forbidden, and which bubblewrap 0.12 no longer supports: `chmod u-s {facts.command}`"
        )
    if version < (0, 12):
        yield (
            "bubblewrap before 0.12.0 has CVE-2026-87766, unless your distribution fixed it: "
            "files that it creates while it sets up a sandbox may end up on the host if a mount "
            "point lies below a symbolic link. Jobs cannot choose mount points here, and links in "
            "the configured ones are resolved first; other programs may be less careful"
        )


def _setting(name: str) -> int | None:
    text = _text(name)
    return int(text) if text.isdecimal() else None


def _text(name: str) -> str:
    try:
        return (SYSCTL / name).read_text().strip()
    except OSError:
        return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()

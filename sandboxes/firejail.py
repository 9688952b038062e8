"""Confine programs with firejail: of the host's folders they see only those of the system.

It is the second choice after bwrap: firejail is setuid root, with a history of local root holes
(CVE-2017-5180, CVE-2020-17368, CVE-2021-26910, CVE-2022-31214). Its root is that of the host, with
everything hidden that is not listed here. Inside a container it runs the program *without any
sandbox*, and only a warning says so, which ``--quiet`` hides. So it never runs as root, and the
test at the start checks what the program can really see.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from streamer.spi import (
    Backend,
    BackendUnavailable,
    Host,
    Identity,
    Isolation,
    LaunchPlan,
    SandboxJob,
    hookimpl,
)

__all__ = ["Firejail"]

PRIVATE: Final = frozenset({"/dev", "/etc", "/home", "/proc", "/root", "/run", "/tmp", "/var"})
"""Folders in / that the sandbox replaces by its own."""

NO_TERMINALS: Final = ("--blacklist=/dev/ptmx", "--blacklist=/dev/pts")
"""Their number is shared by the whole host."""

LANDLOCK_CREATE_RULESET: Final = 444

DENIED: Final = (
    "io_uring_setup,io_uring_enter,io_uring_register,ptrace,process_vm_readv,process_vm_writev"
)

NOTHING: Final = ".streamer-shows-nothing"
"""A name that does not exist: if it is the only one shown (--whitelist), the folder is empty."""

LITTER: Final = (".bashrc", ".zshrc", ".cshrc", ".inputrc", ".asoundrc", ".Xauthority")
"""Files that firejail puts into a private home; some are the user's."""

HOSTS: Final = Path("/etc/hosts")

NOTES: Final = Path("/run/firejail")
NOTE_FOLDERS: Final = ("sandbox", "name", "profile", "x11", "network", "bandwidth")
NOTE: Final = re.compile(r"(\d+)(-[a-z0-9]+)?")
"""firejail keeps notes about each sandbox in files named by its process id."""
NOTE_AGE_S: Final = 10.0


@dataclass(frozen=True)
class Firejail(Backend):
    """firejail without a profile, with explicit arguments.

    Options: `path` of the command; `user`, the account that sandboxes run as if the service is
    root, since firejail refuses users that are not in /etc/passwd.
    """

    name: ClassVar[str] = "firejail"
    isolation: ClassVar[Isolation] = Isolation.DENY_LIST
    seccomp: ClassVar[bool] = True
    ahead: ClassVar[Literal["program", "sandbox", "nothing"]] = "sandbox"
    """Its filter denies tracing to our init too."""

    path: str = "/usr/bin/firejail"
    user: str = "streamer"

    async def probe(self, host: Host) -> None:
        """Check that the command and, for a root service, the account exist."""
        if not os.access(self.path, os.X_OK):
            raise BackendUnavailable(
                f"{self.path} is not installed: install the package firejail, "
                "or set sandbox.firejail.path to its absolute path"
            )
        if host.root:
            self._account()
            sweep_notes(NOTES)
            return
        try:
            self._home(None)
        except KeyError:
            raise BackendUnavailable(
                f"firejail refuses uid {os.getuid()}, which is not in /etc/passwd: "
                "run the service as an account of this host"
            ) from None

    def run_as(self, slot: Identity | None) -> Identity | None:
        """Return the account; the user of the slot has no passwd entry."""
        return None if slot is None else self._account()

    def terminals(self) -> bool:
        """Return whether there is Landlock, by which our init closes firejail's devpts to the job.

        firejail cannot: what it hides it hides from our init too. Renaming files from one folder
        into another works under Landlock since its second version (Linux 5.19).
        """
        version = ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
        return int(version) >= 2

    def explain(self, wrapper_exit: int, wrapper_stderr: str) -> str | None:
        """Name the usual reason: the account may not use firejail."""
        if "not allowed to use Firejail" in wrapper_stderr:
            return "the user is not listed in /etc/firejail/firejail.users (man firejail-users)"
        if "opening private directory" in wrapper_stderr or "init: not found" in wrapper_stderr:
            return (
                "firejail replaces /var/tmp and the account's home, so the service's folder "
                "cannot be in them: set server.state_dir to another folder"
            )
        return None

    def plan(self, job: SandboxJob, workspace: Path) -> LaunchPlan:
        home = self._home(job.identity)
        arguments = [
            self.path,
            "--quiet",  # no banner
            "--noprofile",  # do not use a profile that firejail finds by name
            f"--private={workspace}",  # the job's folder is its home; the real home is hidden
            "--private-cwd",  # start there
            "--writable-var",  # the job's folder may be in /var; nothing else of it is shown
            "--private-dev",  # a few device nodes
            *_shown(job, home),
            "--blacklist=/run/user",  # the account's own folder there is shown in spite of the list
            *(() if job.network else ("--net=none",)),  # no network, abstract sockets
            "--caps.drop=all",
            "--nonewprivs",  # setuid programs gain nothing
            "--noroot",  # no root in its user namespace
            "--nogroups",
            "--noinput",
            "--x11=none",
            "--nodbus",
            "--ipc-namespace",
            "--hostname=sandbox",
            "--restrict-namespaces",  # no nested user namespace
            "--protocol=unix,inet,inet6,netlink",  # our filter allows only routes of netlink
            *(() if job.terminal else NO_TERMINALS),  # else our init forbids them: Landlock
            # In addition to firejail's list, from which the next option removes tracing.
            f"--seccomp={DENIED}",
            "--allow-debuggers",  # shows /usr/lib/debug, which valgrind needs
            "--blacklist=/proc/keys",  # it lists the user's keys from all namespaces
            "--blacklist=/proc/pressure",  # each trigger there delays the end of its process
            "--",
            *("--only-terminal" if word == "--terminal" else word for word in job.argv),
        ]
        return LaunchPlan(
            argv=tuple(arguments),
            # firejail starts its helper programs with the user's shell and PATH.
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SHELL": "/bin/sh", "HOME": home},
            workspace=home,
            start_as=job.identity,
            # Their size is half of the host's memory: firejail has no option for it.
            private_mounts=("/tmp", "/dev", "/var/tmp"),
            litter=LITTER,
        )

    def _account(self) -> Identity:
        try:
            entry = pwd.getpwnam(self.user)
        except KeyError:
            raise BackendUnavailable(
                f"sandbox.firejail.user = {self.user!r} does not exist: `useradd --system "
                f"--create-home --home-dir /var/lib/{self.user} --shell /bin/sh {self.user}`, "
                "or run the service as an ordinary user"
            ) from None
        return Identity(entry.pw_uid, entry.pw_gid)

    def _home(self, identity: Identity | None) -> str:
        return pwd.getpwuid(os.getuid() if identity is None else identity.uid).pw_dir


def _shown(job: SandboxJob, home: str) -> Iterator[str]:
    """Yield the options that show `job.shown` and hide the rest.

    A folder with a listed name contains only the listed names.
    """
    host = job.host
    shown = [str(host.init), *host.etc, "/etc/hosts", "/etc/hostname", "/var/tmp"]
    sources = [one.source for one in job.shown]
    shown += sources
    shown += [f"{folder}/{NOTHING}" for folder in ("/run", "/tmp")]
    yield from (f"--whitelist={path}" for path in shown)
    # Jobs of an ordinary user's service run as that user, who may own some of these.
    yield from (f"--read-only={path}" for path in (str(host.init), *sources))
    if HOSTS.exists():  # firejail fails if there is no file to replace
        yield f"--hosts-file={host.rootfs / 'etc/hosts'}"  # the host's own may list other hosts
    for path in host.others:
        if path in PRIVATE:
            continue
        if Path(home).is_relative_to(path):
            yield f"--whitelist={path}/{NOTHING}"
        elif not any(Path(one).is_relative_to(path) for one in shown):
            # Names may have characters with a meaning for firejail.
            yield f"--blacklist={re.sub(r'[^/A-Za-z0-9_.+-]', '?', path)}"


def sweep_notes(notes: Path) -> None:
    """Remove the files of killed sandboxes in firejail's folder in /run; works as root only.

    firejail removes its files only if it is not killed.
    """
    for folder in NOTE_FOLDERS:
        for note in (notes / folder).glob("[0-9]*"):
            match = NOTE.fullmatch(note.name)
            if match is None or Path("/proc", match[1]).exists():
                continue
            with contextlib.suppress(OSError):
                found = note.lstat()
                old = time.time() - found.st_mtime > NOTE_AGE_S
                if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and old:
                    note.unlink()


@hookimpl
def streamer_backends() -> list[type[Backend]]:
    return [Firejail]

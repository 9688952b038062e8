"""The system calls that a sandboxed program is refused, as data.

Everything else is allowed: programs of all kinds shall run, and the namespaces, the missing
capabilities and the unprivileged user already withhold most of what follows. This list is the
second wall: it keeps what has no use in a job, and a history of holes in the kernel, out of
reach. It is in the spirit of Docker's default profile (profiles/seccomp in moby/moby) and
stricter in sockets, ``ptrace`` and ``io_uring``.

Arguments are compared in their low 32 bits: the kernel takes no more of a flag word, an ioctl
request or a protocol family, so that a comparison of all 64 is passed by any high bit. What a
pointer leads to cannot be seen; a call that hides its arguments there is refused as a whole.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "NEWER_CALLS", "RULES", "UNCOUNTED", "Rule"]

LOW_32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """Refuse `call` with `error`; if `mask` is not 0, only where ``argument & mask == value``.

    `argument` counts from 0. With `unless`, refuse where the whole argument is anything else.
    """

    call: str
    error: int = errno.EPERM
    argument: int = 0
    mask: int = 0
    value: int = 0
    unless: int | None = None


MOUNTS: Final = (
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_tree", "pivot_root", "umount", "umount2",
)  # fmt: skip

OTHER_NAMESPACES: Final = ("setns", "unshare")

# No debugger and no LeakSanitizer inside; memory of other processes is only theirs.
OTHER_PROCESSES: Final = (
    "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
)  # fmt: skip

# Large and young, or long forgotten: where the kernel's holes have been.
ATTACK_SURFACE: Final = (
    "bpf", "fanotify_init", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "perf_event_open", "userfaultfd",
)  # fmt: skip
OBSOLETE: Final = (
    "_sysctl", "lookup_dcookie", "nfsservctl", "sysfs", "uselib", "ustat", "vm86", "vm86old",
)  # fmt: skip

# Keyrings belong to the user and not to the sandbox: a channel between jobs.
KEYRINGS: Final = ("add_key", "keyctl", "request_key")

# A handle names a file of a whole filesystem, also one outside the sandbox.
FILE_HANDLES: Final = ("name_to_handle_at", "open_by_handle_at")

HOST: Final = (
    "acct", "create_module", "delete_module", "finit_module", "get_kernel_syms", "init_module",
    "ioperm", "iopl", "kexec_file_load", "kexec_load", "query_module", "quotactl", "quotactl_fd",
    "reboot", "setdomainname", "sethostname", "swapoff", "swapon", "syslog", "vhangup",
)  # fmt: skip
CLOCKS: Final = (
    "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_settime", "clock_settime64",
    "settimeofday", "stime",
)  # fmt: skip

# The old entrance of 32-bit x86 to all socket calls has its arguments behind a pointer. C
# libraries have called `socket` itself since 2016 (glibc 2.23).
HIDDEN: Final = ("socketcall",)

CLONE_NEW: Final = {
    "CLONE_NEWNS": 0x0002_0000,
    "CLONE_NEWCGROUP": 0x0200_0000,
    "CLONE_NEWUTS": 0x0400_0000,
    "CLONE_NEWIPC": 0x0800_0000,
    "CLONE_NEWUSER": 0x1000_0000,
    "CLONE_NEWPID": 0x2000_0000,
    "CLONE_NEWNET": 0x4000_0000,
}
"""Bits of ``clone``'s first argument; CLONE_NEWTIME is none of them (clone(2))."""

IOCTL_REQUESTS: Final = {
    "TIOCSTI": 0x5412,  # types into a terminal
    "TIOCLINUX": 0x541C,  # and so does its selection
    "TIOCSETD": 0x5423,  # has the kernel load a line discipline
}

OTHER_FAMILIES: Final = (
    (LOW_32, 3), (~3 & LOW_32, 4), (~1 & LOW_32, 8), (LOW_32, 11), (~3 & LOW_32, 12),
    (16, 16), (32, 32),
)  # fmt: skip
"""What is not AF_UNSPEC (0), AF_UNIX (1), AF_INET (2) or AF_INET6 (10), as (mask, value): 3, 4-7,
8-9, 11, 12-15, and all to 63 that have 16 or 32 in them; the kernel has 46 families."""

PERSONALITY_QUERY: Final = 0xFFFFFFFF

UNCOUNTED: Final = (Rule("memfd_create", errno.ENOSYS), Rule("memfd_secret", errno.ENOSYS))
"""Memory without a mapping or a file, which only a control group counts. As if the kernel were
older: programs then take a file in /dev/shm or /tmp."""

NEWER_CALLS: Final = {"open_tree_attr": 467}
"""Calls to refuse that libseccomp 2.5 does not know; numbers from 424 on are the same on every
architecture."""


def _rules() -> Iterator[Rule]:
    groups = (
        *(MOUNTS, OTHER_NAMESPACES, OTHER_PROCESSES, ATTACK_SURFACE, OBSOLETE),
        *(KEYRINGS, FILE_HANDLES, HOST, CLOCKS, HIDDEN),
    )
    for group in groups:
        for call in group:
            yield Rule(call)
    for flag in CLONE_NEW.values():
        yield Rule("clone", mask=flag, value=flag)
    # Its flags are behind a pointer. As if the kernel were older: C libraries then use `clone`.
    yield Rule("clone3", errno.ENOSYS)
    for request in IOCTL_REQUESTS.values():
        yield Rule("ioctl", argument=1, mask=LOW_32, value=request)
    for call in ("socket", "socketpair"):
        for mask, value in OTHER_FAMILIES:
            yield Rule(call, errno.EAFNOSUPPORT, mask=mask, value=value)
    # May be asked for, not set: it can make memory executable and map address 0.
    yield Rule("personality", unless=PERSONALITY_QUERY)
    # Its own limits only (0): the kernel lets a process of the same user set our init's, and
    # without descriptors it could not see what the job uses.
    yield Rule("prlimit64", unless=0)


RULES: Final = tuple(_rules())

KINDS: Final = {
    "whole": RULES,
    "no-memfd": (*RULES, *UNCOUNTED),
    "guard": tuple(rule for rule in RULES if rule.call in (*KEYRINGS, "prlimit64")),
}
"""The filters that there are."""

"""The system calls that are refused to sandboxed programs, as data.

Everything else is allowed: all kinds of programs must run, and namespaces, missing capabilities and
the unprivileged user already prevent most of what follows. This list is the second line of defence:
it denies calls that have no use in a job and a history of holes in the kernel. It is similar to
Docker's default profile (profiles/seccomp in moby/moby), and stricter in sockets, ``ptrace`` and
``io_uring``.

Only the low 32 bits of arguments are compared: the kernel ignores the others in flags, ioctl
requests and protocol families, so a program could pass a comparison of all 64 by setting any high
bit. A filter cannot see what a pointer points to; a call with such arguments is refused completely.

Calls that libseccomp 2.5 does not know, or checks in the wrong argument, are `Numbered` rules: they
are found by their number on one architecture, and `generate` puts them first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["ARCHITECTURES", "KINDS", "Differs", "Kind", "Masked", "Numbered", "Rule"]

LOW_32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Masked:
    """True if ``argument & mask == value``; `argument` counts from 0."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True, slots=True)
class Differs:
    """True if the whole argument is not `value`."""

    argument: int
    value: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Refuse `call` with `error`; with conditions, only if all of them are true."""

    call: str
    error: int = errno.EPERM
    conditions: tuple[Masked | Differs, ...] = ()


@dataclass(frozen=True, slots=True)
class Numbered:
    """As `Rule`, for the call with this number on one of `ARCHITECTURES`."""

    architecture: str
    number: int
    error: int = errno.EPERM
    conditions: tuple[Masked, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    rules: tuple[Rule, ...]
    numbered: tuple[Numbered, ...]


ARCHITECTURES: Final[Mapping[str, int]] = {
    "X86_64": 0xC000_003E,
    "X86": 0x4000_0003,
    "AARCH64": 0xC000_00B7,
    "ARM": 0x4000_0028,
}
"""AUDIT_ARCH of linux/audit.h, by the names of libseccomp."""


MOUNTS: Final = (
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
    "open_tree", "pivot_root", "umount", "umount2",
)  # fmt: skip

OTHER_NAMESPACES: Final = ("setns", "unshare")

# No debugger and no LeakSanitizer inside; no access to the memory of other processes.
OTHER_PROCESSES: Final = (
    "kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",
)  # fmt: skip

# Large and new, or long forgotten: here the kernel has had its holes.
ATTACK_SURFACE: Final = (
    "bpf", "fanotify_init", "io_uring_enter", "io_uring_register", "io_uring_setup",
    "perf_event_open", "userfaultfd",
)  # fmt: skip
OBSOLETE: Final = (
    "_sysctl", "lookup_dcookie", "nfsservctl", "sysfs", "uselib", "ustat", "vm86", "vm86old",
)  # fmt: skip

# Keyrings belong to the user and not to the sandbox: they are a channel between jobs.
KEYRINGS: Final = ("add_key", "keyctl", "request_key")

# A handle can name any file of a filesystem, also one outside the sandbox.
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

# The old multiplexer of 32-bit x86 for all socket calls has its arguments behind a pointer. C
# libraries have used `socket` itself since 2016 (glibc 2.23).
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
"""Bits of the first argument of ``clone``; CLONE_NEWTIME is not among them (clone(2))."""

IOCTL_REQUESTS: Final = {
    "TIOCSTI": 0x5412,  # types into a terminal
    "TIOCLINUX": 0x541C,  # and so does its selection
    "TIOCSETD": 0x5423,  # makes the kernel load a line discipline
}

PERSONALITY_QUERY: Final = 0xFFFFFFFF

# ---- resources shared by the whole host or account ----------------------------------------------

MAP_HUGETLB: Final = 0x0004_0000
SHM_HUGETLB: Final = 0o4000
MFD_HUGETLB: Final = 0x0004

ASYNCHRONOUS_IO: Final = (Rule("io_setup", errno.ENOSYS), Rule("io_submit", errno.ENOSYS))
"""One job could use up fs.aio-max-nr; databases work without, as on an older kernel."""

HUGE_PAGES: Final = tuple(
    Rule(call, errno.ENOMEM, (Masked(3, MAP_HUGETLB, MAP_HUGETLB),)) for call in ("mmap", "mmap2")
)
"""They belong to the host, reserved for example for a database, and the memory controller does not
count them. The error is that of a host without any."""
HUGE_MEMFD: Final = Rule("memfd_create", errno.ENOMEM, (Masked(1, MFD_HUGETLB, MFD_HUGETLB),))

_HUGE_SEGMENT: Final = (Masked(2, SHM_HUGETLB, SHM_HUGETLB),)
HUGE_SEGMENTS: Final = (
    # libseccomp would check the flags of shmget(2) in the wrong argument of ipc(2).
    Numbered("X86_64", 29, errno.ENOMEM, _HUGE_SEGMENT),
    Numbered("X86", 395, errno.ENOMEM, _HUGE_SEGMENT),
    Numbered("AARCH64", 194, errno.ENOMEM, _HUGE_SEGMENT),
    Numbered("ARM", 307, errno.ENOMEM, _HUGE_SEGMENT),
    # ipc(SHMGET, key, size, flags), with a version in the upper half of the first.
    Numbered(
        "X86", 117, errno.ENOMEM, (Masked(0, 0xFFFF, 23), Masked(3, SHM_HUGETLB, SHM_HUGETLB))
    ),
    # The first mmap of 32-bit x86, whose arguments are behind a pointer; C libraries call mmap2.
    Numbered("X86", 90, errno.ENOSYS),
)

# ---- files that jobs have in common -------------------------------------------------------------

F_SETLEASE: Final = 1024
F_NOTIFY: Final = 1026
F_SETDELEG: Final = 1040  # since Linux 6.19


def _fcntl(command: int) -> Iterator[Rule]:
    """Refuse a command of fcntl(2), with the error of a kernel that does not know it."""
    for call in ("fcntl", "fcntl64"):
        yield Rule(call, errno.EINVAL, (Masked(1, LOW_32, command),))


LEASES: Final = (*_fcntl(F_SETLEASE), *_fcntl(F_SETDELEG))
"""Whoever has one learns of each open(2) of the file, and delays it by up to 45 s. It needs a file
of the same user: if the service is not root, those that it shows to all jobs are."""

# ---- sockets -------------------------------------------------------------------------------------

NETLINK: Final = 16
OTHER_FAMILIES: Final = (
    *(Masked(0, mask, value) for mask, value in (
        (LOW_32, 3), (~3 & LOW_32, 4), (~1 & LOW_32, 8), (LOW_32, 11), (~3 & LOW_32, 12),
    )),
    *(Masked(0, NETLINK | bit, NETLINK | bit) for bit in (1, 2, 4, 8)),
    Masked(0, 32, 32),
)  # fmt: skip
"""All but AF_UNSPEC (0), AF_UNIX (1), AF_INET (2), AF_INET6 (10) and AF_NETLINK (16): 3, 4-7, 8-9,
11, 12-15, 17-31 and 32-63; the kernel has 46 families."""

_OF_NETLINK: Final = Masked(0, LOW_32, NETLINK)
OTHER_NETLINK: Final = tuple((_OF_NETLINK, Masked(2, 1 << bit, 1 << bit)) for bit in range(5))
"""All protocols of netlink but NETLINK_ROUTE, which is 0; the kernel has none beyond 31. Programs
list network interfaces with it (getifaddrs(3)), and see only those of their sandbox."""

SOCKETS: Final = ("socket", "socketpair")

# ---- the strict filter ---------------------------------------------------------------------------

STRICT: Final = (
    *(Rule(call, errno.EAFNOSUPPORT, (_OF_NETLINK,)) for call in SOCKETS),
    # With them a job sees which of the shared files in /usr other jobs open, and when.
    Rule("inotify_init", errno.ENOSYS),
    Rule("inotify_init1", errno.ENOSYS),
    *_fcntl(F_NOTIFY),  # the older way, by a signal
)

UNCOUNTED: Final = (Rule("memfd_create", errno.ENOSYS), Rule("memfd_secret", errno.ENOSYS))
"""Memory without a mapping or a file, which only a control group counts. The error is that of an
older kernel: programs then use a file in /dev/shm or /tmp."""

NEWER: Final = tuple(Numbered(architecture, 467) for architecture in ARCHITECTURES)
"""open_tree_attr(2); from 424 on the numbers are the same on every architecture."""

# ---- where jobs share the host's folders ---------------------------------------------------------

O_CREAT: Final = 0o100
O_TMPFILE: Final = 0o2000_0000  # without O_DIRECTORY, which has another value on ARM


def _set_id(call: str, argument: int, *others: Masked) -> Iterator[Rule]:
    """Refuse the call if the mode in `argument` has the setuid or setgid bit."""
    for bit in (0o4000, 0o2000):
        yield Rule(call, conditions=(*others, Masked(argument, bit, bit)))


def _set_id_rules() -> Iterator[Rule]:
    for call, argument in (
        *(("chmod", 1), ("fchmod", 1), ("fchmodat", 2)),
        *(("creat", 1), ("mknod", 1), ("mknodat", 2)),
    ):
        yield from _set_id(call, argument)
    for call, flags in (("open", 1), ("openat", 2)):
        for making in (O_CREAT, O_TMPFILE):
            # Without one of these flags there is no mode, and the register may have any value.
            yield from _set_id(call, flags + 1, Masked(flags, making, making))
    # Its mode is behind a pointer. The error is that of an older kernel.
    yield Rule("openat2", errno.ENOSYS)
    # It opens files too.
    yield from (Rule(call) for call in ATTACK_SURFACE if call.startswith("io_uring"))


SET_ID: Final = tuple(_set_id_rules())
"""A file with such a bit could outlive its job in /tmp, and whoever runs it becomes the user of a
later job: they could read that job's program, and kill it."""
NEWER_SET_ID: Final = tuple(
    Numbered(architecture, 452, conditions=(Masked(2, bit, bit),))
    for architecture in ARCHITECTURES
    for bit in (0o4000, 0o2000)
)
"""fchmodat2(2)."""


def _rules() -> Iterator[Rule]:
    groups = (
        *(MOUNTS, OTHER_NAMESPACES, OTHER_PROCESSES, ATTACK_SURFACE, OBSOLETE),
        *(FILE_HANDLES, HOST, CLOCKS, HIDDEN),
    )
    for group in groups:
        for call in group:
            yield Rule(call)
    for flag in CLONE_NEW.values():
        yield Rule("clone", conditions=(Masked(0, flag, flag),))
    # Its flags are behind a pointer. With the error of an older kernel C libraries use `clone`.
    yield Rule("clone3", errno.ENOSYS)
    for request in IOCTL_REQUESTS.values():
        yield Rule("ioctl", conditions=(Masked(1, LOW_32, request),))
    for call in SOCKETS:
        for condition in OTHER_FAMILIES:
            yield Rule(call, errno.EAFNOSUPPORT, (condition,))
        for conditions in OTHER_NETLINK:
            yield Rule(call, errno.EAFNOSUPPORT, conditions)
    yield from LEASES
    # It may be read but not set: it can make memory executable and map address 0.
    yield Rule("personality", conditions=(Differs(0, PERSONALITY_QUERY),))


# ---- the init ------------------------------------------------------------------------------------

INIT_PID: Final = 0x4000_0001
"""A placeholder for the process id of the sandbox's init, which replaces it by its own (keep_filter
in init/start.c). No process id is larger than 4194304."""
PRIO_USER: Final = 2
IOPRIO_WHO_USER: Final = 3

_SCHEDULES: Final = (
    *("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity"),
)
INIT_STARVED: Final = (
    *(Rule(call, conditions=(Masked(0, LOW_32, INIT_PID),)) for call in _SCHEDULES),
    *(
        Rule(call, conditions=(Masked(1, LOW_32, INIT_PID),))
        for call in ("setpriority", "ioprio_set")
    ),
    Rule("setpriority", conditions=(Masked(0, LOW_32, PRIO_USER),)),
    Rule("ioprio_set", conditions=(Masked(0, LOW_32, IOPRIO_WHO_USER),)),
)
"""The kernel allows a process of the same user to take the processor away from our init, which then
could not check what the job uses."""


COMMON: Final = (
    *(Rule(call) for call in KEYRINGS),
    # A process may set only its own limits (0), and read those of any it sees. The kernel allows
    # a process of the same user to set our init's; without descriptors that could not check what
    # the job uses.
    Rule("prlimit64", conditions=(Differs(0, 0), Differs(2, 0))),
    *INIT_STARVED,
    *ASYNCHRONOUS_IO,
    *HUGE_PAGES,
)
"""The rules in every filter."""

_CONFINING: Final = (*COMMON, *_rules())
_BY_NUMBER: Final = (*HUGE_SEGMENTS, *NEWER)

KINDS: Final[Mapping[str, Kind]] = {
    "whole": Kind((*_CONFINING, HUGE_MEMFD), _BY_NUMBER),
    "no-memfd": Kind((*_CONFINING, *UNCOUNTED), _BY_NUMBER),
    "strict": Kind((*_CONFINING, HUGE_MEMFD, *STRICT), _BY_NUMBER),
    "strict-no-memfd": Kind((*_CONFINING, *UNCOUNTED, *STRICT), _BY_NUMBER),
    "guard": Kind((*COMMON, HUGE_MEMFD, *SET_ID), (*HUGE_SEGMENTS, *NEWER_SET_ID)),
}
"""All filters."""

"""The system call filters themselves, interpreted, for each machine."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import secrets
from collections.abc import Iterator

import pyseccomp
import pytest

from streamer.sandbox.seccomp import has_filter, job_filter
from streamer.sandbox.seccomp.generate import FILTERS, generate
from streamer.sandbox.seccomp.rules import ARCHITECTURES as ARCHITECTURE_NUMBERS
from streamer.sandbox.seccomp.rules import KINDS, Numbered, Rule
from tests.bpf import HIGH, arguments_for, verdict, with_high_bits

SIGCHLD = 17
X32_BIT = 0x4000_0000
X86_DIRECT = {"socket": 359, "socketpair": 360}
"""libseccomp numbers these as parts of `socketcall`; since Linux 4.3 they are calls too."""
GENERATED_BY = (2, 5, 4)
"""The version of libseccomp that made the filters; another may arrange them otherwise."""

ARCHITECTURES = [
    pytest.param(machine, name, id=name) for machine, names in FILTERS.items() for name in names
]


def number_of(name: str, call: str) -> int | None:
    """Return the number of a call, or None where the architecture does not have it."""
    if name == "X86" and call in X86_DIRECT:
        return X86_DIRECT[call]
    number: int = pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, name), call)
    return number if number >= 0 else None


def filter_of(machine: str, kind: str = "whole") -> bytes:
    found = job_filter(
        whole=kind != "guard",
        memfd="no-memfd" not in kind,
        strict=kind.startswith("strict"),
        machine=machine,
    )
    assert found is not None
    return found


def answer(machine: str, name: str, kind: str, number: int, *arguments: int) -> int:
    return verdict(filter_of(machine, kind), ARCHITECTURE_NUMBERS[name], number, *arguments)


def rules_of(kind: str, name: str) -> Iterator[tuple[int, Rule | Numbered]]:
    """Yield the rules that a filter has for one architecture, each with the number of its call."""
    for rule in KINDS[kind].rules:
        number = number_of(name, rule.call)
        if number is not None:
            yield number, rule
    for numbered in KINDS[kind].numbered:
        if numbered.architecture == name:
            yield numbered.number, numbered


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_is_in_the_filter(machine: str, name: str, kind: str) -> None:
    rules = [*rules_of(kind, name)]
    assert len({number for number, _ in rules}) > (15 if kind == "guard" else 60)
    for number, rule in rules:
        arguments = arguments_for(rule)
        for given in (arguments, with_high_bits(rule, arguments)):
            # Where a call is refused as a whole too, libseccomp takes either answer.
            refusals = {other.error for same, other in rules if same == number}
            got = answer(machine, name, kind, number, *given)
            assert got in refusals if len(refusals) > 1 else got == rule.error, rule


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_other_call_is_let_through(machine: str, name: str, kind: str) -> None:
    # With all bits set in the arguments: no rule for one call applies to another.
    listed = {number for number, _ in rules_of(kind, name)}
    for number in set(range(600)) - listed:
        assert answer(machine, name, kind, number, *[2**64 - 1] * 6) == 0, number


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("clone", (0x3D0F00,)),  # a thread, as glibc makes it
        ("clone", (0x1200011,)),  # a process, as glibc makes it
        ("clone", (SIGCHLD | HIGH,)),
        ("prlimit64", (0, 7, 0xBEEF, 0)),  # one's own, to set
        ("prlimit64", (4321, 7, 0, 0xBEEF)),  # of any, to read
        *((call, (16, 3, 0)) for call in ("socket", "socketpair")),  # NETLINK_ROUTE
        ("socket", (16 | HIGH, 3, HIGH)),
        ("ioctl", (0, 0x5413)),
        ("personality", (0xFFFFFFFF,)),
        *((call, (family,)) for call in ("socket", "socketpair") for family in (0, 1, 2, 10)),
        # C leaves the upper half of a register undefined where it passes an int.
        *((call, (family | HIGH,)) for call in ("socket", "socketpair") for family in (1, 2, 10)),
    ],
)
def test_what_programs_need_is_let_through(
    machine: str, name: str, call: str, arguments: tuple[int, ...]
) -> None:
    number = number_of(name, call)
    assert number is not None
    assert answer(machine, name, "whole", number, *arguments) == 0


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("call", ["socket", "socketpair"])
@pytest.mark.parametrize("kind", ["whole", "strict"])
def test_all_families_but_four_are_refused(machine: str, name: str, call: str, kind: str) -> None:
    number = number_of(name, call)
    assert number is not None
    allowed = [
        (family, protocol)
        for family in range(64)
        for protocol in range(32 if family == 16 else 1)
        if not answer(machine, name, kind, number, family, 3, protocol)
    ]
    # Of netlink (16) only NETLINK_ROUTE.
    assert allowed == [(0, 0), (1, 0), (2, 0), (10, 0), *([] if kind == "strict" else [(16, 0)])]


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_huge_pages_are_refused_and_others_are_not(machine: str, name: str, kind: str) -> None:
    anonymous, huge = 0x22, 0x4_0000
    for call in ("mmap", "mmap2"):
        number = number_of(name, call)
        if number is None or (name, call) == ("X86", "mmap"):  # which has no flags of its own
            continue
        for flags in (anonymous, anonymous | 0xFFFB_0000):
            assert answer(machine, name, kind, number, 0, 4096, 3, flags) == 0
            assert answer(machine, name, kind, number, 0, 4096, 3, flags | huge) == errno.ENOMEM
    number = {"X86_64": 29, "X86": 395, "AARCH64": 194, "ARM": 307}[name]
    # The size is no flag, and neither is the key.
    assert answer(machine, name, kind, number, 0o4000, 0o4000, 0o1600) == 0
    assert answer(machine, name, kind, number, 1, 4096, 0o5600) == errno.ENOMEM
    if name == "X86":
        assert answer(machine, name, kind, 117, 23, 0o4000, 0o4000, 0o1600) == 0
        for version in (0, 1 << 16):
            assert answer(machine, name, kind, 117, 23 | version, 1, 1, 0o5600) == errno.ENOMEM
        assert answer(machine, name, kind, 117, 22, 0, 0, 0o5600) == 0  # shmdt
        assert answer(machine, name, kind, 90) == errno.ENOSYS


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
def test_the_guard_lets_nobody_make_a_setuid_file(machine: str, name: str) -> None:
    # An open without O_CREAT has no mode: whatever is in that register is none.
    modes = {0o644: 0, 0o1777: 0, 0o4755: errno.EPERM, 0o2755: errno.EPERM, 0o6000: errno.EPERM}
    for mode, refusal in modes.items():
        for call, arguments in {
            "chmod": (1, mode),
            "fchmod": (3, mode),
            "fchmodat": (-100 & 0xFFFF_FFFF, 1, mode),
            "creat": (1, mode),
            "mknod": (1, 0o10_0000 | mode),
            "mknodat": (3, 1, 0o10_0000 | mode),
            "open": (1, 0o101, mode),
            "openat": (3, 1, 0o101, mode),
        }.items():
            number = number_of(name, call)
            if number is not None:
                assert answer(machine, name, "guard", number, *arguments) == refusal, (call, mode)
        openat = number_of(name, "openat")
        assert openat is not None
        assert answer(machine, name, "guard", openat, 3, 1, 0o2020_0002, mode) == refusal
        assert answer(machine, name, "guard", openat, 3, 1, 0, mode) == 0
        assert answer(machine, name, "guard", 452, 3, 1, mode) == refusal  # fchmodat2
        assert answer(machine, name, "whole", 452, 3, 1, mode) == 0
    assert answer(machine, name, "guard", 425) == errno.EPERM  # io_uring_setup
    assert answer(machine, name, "guard", 437) == errno.ENOSYS  # openat2


def test_no_call_of_x32_is_let_through() -> None:
    for number in range(600):
        refusal = verdict(filter_of("x86_64"), pyseccomp.Arch.X86_64, number | X32_BIT)
        assert refusal == errno.ENOSYS, number


@pytest.mark.parametrize("machine", FILTERS)
def test_an_architecture_of_another_machine_is_refused(machine: str) -> None:
    assert verdict(filter_of(machine), pyseccomp.Arch.PPC64, 1) == errno.ENOSYS


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_refuses_what_it_is_for(machine: str, name: str, kind: str) -> None:
    calls = (
        *("keyctl", "add_key", "request_key", "io_setup", "io_submit"),
        *("memfd_create", "mount", "inotify_init1", "read"),
    )
    refused = {}
    for call in calls:
        number = number_of(name, call)
        assert number is not None
        refused[call] = answer(machine, name, kind, number)
    assert refused["keyctl"] == refused["add_key"] == refused["request_key"] == errno.EPERM
    assert refused["io_setup"] == refused["io_submit"] == errno.ENOSYS
    assert refused["memfd_create"] == (errno.ENOSYS if "no-memfd" in kind else 0)
    assert refused["mount"] == (0 if kind == "guard" else errno.EPERM)
    assert refused["inotify_init1"] == (errno.ENOSYS if "strict" in kind else 0)
    assert refused["read"] == 0


@pytest.mark.parametrize(("machine", "name"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", ["fcntl", "fcntl64"])
def test_a_file_cannot_be_leased(machine: str, name: str, kind: str, call: str) -> None:
    number = number_of(name, call)
    if number is None:
        pytest.skip("this architecture has no such call")
    lease, strict = (0 if kind == "guard" else errno.EINVAL), "strict" in kind
    for command, refusal in {
        fcntl.F_SETLEASE: lease,
        1040: lease,  # F_SETDELEG
        fcntl.F_NOTIFY: errno.EINVAL if strict else 0,
        fcntl.F_GETLEASE: 0,
        fcntl.F_SETFD: 0,
        fcntl.F_DUPFD_CLOEXEC: 0,
        fcntl.F_SETPIPE_SZ: 0,
    }.items():
        assert answer(machine, name, kind, number, 3, command, 1) == refusal, command


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", FILTERS)
def test_the_files_are_what_the_rules_make(machine: str, kind: str) -> None:
    if (version := libseccomp_version()) != GENERATED_BY:
        pytest.skip(f"libseccomp is {version}, the filters were made by {GENERATED_BY}")
    made = generate(machine, kind)
    assert made == filter_of(machine, kind), "run python -m streamer.sandbox.seccomp.generate"


def libseccomp_version() -> tuple[int, ...]:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return tuple(library.seccomp_version().contents)


def test_a_machine_without_a_filter_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    machine = f"pdp11-{secrets.token_hex(4)}"  # a machine without filters: one warning
    with caplog.at_level(logging.WARNING, logger="streamer"):
        assert not has_filter(machine)
    assert "pdp11" in caplog.text

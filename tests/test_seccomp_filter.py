"""The filter of system calls itself, interpreted, on each machine that it is for."""

from __future__ import annotations

import ctypes
import errno
import logging
import secrets

import pyseccomp
import pytest

from streamer.seccomp import has_filter, job_filter
from streamer.seccomp.generate import FILTERS, generate
from streamer.seccomp.rules import KINDS, NEWER_CALLS, RULES
from tests.bpf import HIGH, arguments_for, verdict

SIGCHLD = 17
X32_BIT = 0x4000_0000
X86_DIRECT = {"socket": 359, "socketpair": 360}
"""libseccomp numbers these as parts of `socketcall`; since Linux 4.3 they are calls too."""
GENERATED_BY = (2, 5, 4)
"""The version of libseccomp that made the filters; another may arrange them otherwise."""

ARCHITECTURES = [
    pytest.param(machine, getattr(pyseccomp.Arch, name), id=name)
    for machine, names in FILTERS.items()
    for name in names
]


def number_of(architecture: int, call: str) -> int | None:
    """Return the number of a call, or None where the architecture does not have it."""
    if architecture == pyseccomp.Arch.X86 and call in X86_DIRECT:
        return X86_DIRECT[call]
    number: int = pyseccomp.resolve_syscall(architecture, call)
    return number if number >= 0 else None


def filter_of(machine: str, kind: str = "whole") -> bytes:
    found = job_filter(whole=kind != "guard", memfd=kind == "whole", machine=machine)
    assert found is not None
    return found


@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
def test_every_rule_is_in_the_filter(machine: str, architecture: int) -> None:
    refused = {rule.call for rule in RULES if number_of(architecture, rule.call) is not None}
    assert len(refused) > 55
    for rule in RULES:
        number = number_of(architecture, rule.call)
        if number is None:
            continue
        arguments = arguments_for(rule)
        assert verdict(filter_of(machine), architecture, number, *arguments) == rule.error, rule
        arguments[rule.argument] |= HIGH
        assert verdict(filter_of(machine), architecture, number, *arguments) == rule.error, rule


@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
def test_every_other_call_is_let_through(machine: str, architecture: int) -> None:
    listed = {number_of(architecture, rule.call) for rule in RULES} | set(NEWER_CALLS.values())
    for number in set(range(600)) - listed:
        assert verdict(filter_of(machine), architecture, number) == 0, number


@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("clone", (0x3D0F00,)),  # a thread, as glibc makes it
        ("clone", (0x1200011,)),  # a process, as glibc makes it
        ("clone", (SIGCHLD | HIGH,)),
        ("ioctl", (0, 0x5413)),
        ("personality", (0xFFFFFFFF,)),
        *((call, (family,)) for call in ("socket", "socketpair") for family in (0, 1, 2, 10)),
        # C leaves the upper half of a register undefined where it passes an int.
        *((call, (family | HIGH,)) for call in ("socket", "socketpair") for family in (1, 2, 10)),
    ],
)
def test_what_programs_need_is_let_through(
    machine: str, architecture: int, call: str, arguments: tuple[int, ...]
) -> None:
    number = number_of(architecture, call)
    assert number is not None
    assert verdict(filter_of(machine), architecture, number, *arguments) == 0


@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
def test_all_families_but_three_are_refused(machine: str, architecture: int) -> None:
    number = number_of(architecture, "socket")
    assert number is not None
    allowed = [
        family
        for family in range(64)
        if verdict(filter_of(machine), architecture, number, family) == 0
    ]
    assert allowed == [0, 1, 2, 10]


def test_no_call_of_x32_is_let_through() -> None:
    for number in range(600):
        refusal = verdict(filter_of("x86_64"), pyseccomp.Arch.X86_64, number | X32_BIT)
        assert refusal == errno.ENOSYS, number


@pytest.mark.parametrize("machine", FILTERS)
def test_an_architecture_of_another_machine_is_refused(machine: str) -> None:
    assert verdict(filter_of(machine), pyseccomp.Arch.PPC64, 1) == errno.ENOSYS


@pytest.mark.parametrize(("machine", "architecture"), ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_refuses_what_it_is_for(machine: str, architecture: int, kind: str) -> None:
    refused = {}
    for call in ("keyctl", "add_key", "request_key", "memfd_create", "mount", "read"):
        number = number_of(architecture, call)
        assert number is not None
        refused[call] = verdict(filter_of(machine, kind), architecture, number)
    assert refused["keyctl"] == refused["add_key"] == refused["request_key"] == errno.EPERM
    assert refused["memfd_create"] == (errno.ENOSYS if kind == "no-memfd" else 0)
    assert refused["mount"] == (0 if kind == "guard" else errno.EPERM)
    assert refused["read"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("machine", FILTERS)
def test_the_files_are_what_the_rules_make(machine: str, kind: str) -> None:
    if (version := libseccomp_version()) != GENERATED_BY:
        pytest.skip(f"libseccomp is {version}, the filters were made by {GENERATED_BY}")
    made = generate(machine, kind)
    assert made == filter_of(machine, kind), "run python -m streamer.seccomp.generate"


def libseccomp_version() -> tuple[int, ...]:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return tuple(library.seccomp_version().contents)


def test_a_machine_without_a_filter_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    machine = f"pdp11-{secrets.token_hex(4)}"  # one that nobody has asked for: it is told once
    with caplog.at_level(logging.WARNING, logger="streamer"):
        assert not has_filter(machine)
    assert "pdp11" in caplog.text

"""Generate the filters from the rules: ``python -m streamer.sandbox.seccomp.generate``.

For maintainers, after a change of the rules. Needs the package pyseccomp and the library
libseccomp 2.5 (Debian, Ubuntu: libseccomp2); the generated filters need neither.
"""

from __future__ import annotations

import errno
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from streamer.sandbox.seccomp.rules import ARCHITECTURES, KINDS, Differs, Masked, Numbered

__all__ = ["FILTERS", "generate", "main"]

FILTERS: Final = {"x86_64": ("X86_64", "X86"), "aarch64": ("AARCH64", "ARM")}
"""Machines, as named by uname(2), and the architectures whose system calls a program may use.

x32 is left out on purpose: older kernels accept the number of any 64-bit call with the x32 bit,
which a list of x32's own numbers would miss. So this bit is refused in every call.
"""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
"""Offsets in struct seccomp_data (linux/seccomp.h)."""


def generate(machine: str, kind: str) -> bytes:
    """Return a filter of `KINDS` for a machine: an array of ``struct sock_filter`` (seccomp(2))."""
    import pyseccomp  # noqa: PLC0415 - a maintainer's tool, not installed at run time

    built = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    # The error of a kernel without that architecture.
    built.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    # Binary search: a call costs a dozen comparisons instead of a hundred.
    built.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    architectures = [getattr(pyseccomp.Arch, name) for name in FILTERS[machine]]
    for architecture in architectures:
        if not built.exist_arch(architecture):
            built.add_arch(architecture)
    native = pyseccomp.system_arch()
    if native not in architectures:
        built.remove_arch(native)
    for rule in KINDS[kind].rules:
        built.add_rule(pyseccomp.ERRNO(rule.error), rule.call, *map(_compared, rule.conditions))
    with tempfile.TemporaryFile() as file:
        built.export_bpf(file)
        file.seek(0)
        return _by_number(machine, KINDS[kind].numbered) + file.read()


def _compared(condition: Masked | Differs) -> object:
    import pyseccomp  # noqa: PLC0415 - as above

    if isinstance(condition, Differs):
        return pyseccomp.Arg(condition.argument, pyseccomp.NE, condition.value)
    return pyseccomp.Arg(condition.argument, pyseccomp.MASKED_EQ, condition.mask, condition.value)


def _by_number(machine: str, rules: Sequence[Numbered]) -> bytes:
    """Return instructions that refuse by these rules, or fall through to what follows."""
    instructions = b""
    for name in FILTERS[machine]:
        tests = b"".join(_refuse(rule) for rule in rules if rule.architecture == name)
        if tests:
            tests = _step(_LOAD, _NUMBER_OFFSET) + tests
            instructions += _step(_LOAD, _ARCHITECTURE_OFFSET)
            instructions += _unless_equal(ARCHITECTURES[name], tests) + tests
    return instructions


def _refuse(rule: Numbered) -> bytes:
    """Return instructions that refuse, or fall through; they need and leave the number loaded."""
    import pyseccomp  # noqa: PLC0415 - as above

    inner = _step(_RETURN, pyseccomp.ERRNO(rule.error))
    for condition in reversed(rule.conditions):
        inner = (
            _step(_LOAD, _ARGUMENTS_OFFSET + 8 * condition.argument)
            + _step(_AND, condition.mask)
            + _unless_equal(condition.value, inner)
            + inner
        )
    if rule.conditions:
        inner += _step(_LOAD, _NUMBER_OFFSET)
    return _unless_equal(rule.number, inner) + inner


def _step(code: int, operand: int) -> bytes:
    return _INSTRUCTION.pack(code, 0, 0, operand)


def _unless_equal(value: int, skipped: bytes) -> bytes:
    return _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, len(skipped) // _INSTRUCTION.size, value)


def main() -> None:
    for machine in FILTERS:
        for kind in KINDS:
            target = Path(__file__).with_name(f"{machine}-{kind}.bpf")
            target.write_bytes(generate(machine, kind))


if __name__ == "__main__":
    main()

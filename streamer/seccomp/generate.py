"""Generate the filters from the rules: ``python -m streamer.seccomp.generate``.

For maintainers, after a change of the rules. Needs the package pyseccomp and the library
libseccomp 2.5 (Debian, Ubuntu: libseccomp2); what is generated needs neither.
"""

from __future__ import annotations

import errno
import struct
import tempfile
from pathlib import Path
from typing import Final

from streamer.seccomp.rules import KINDS, NEWER_CALLS, RULES, Rule

__all__ = ["FILTERS", "generate", "main"]

FILTERS: Final = {"x86_64": ("X86_64", "X86"), "aarch64": ("AARCH64", "ARM")}
"""Machines, as uname(2) calls them, and the architectures that a program may call them by.

x32 is left out on purpose: older kernels take the number of any 64-bit call with the bit of
x32 in it, which no list of x32's own numbers would find. So that bit is refused in any call.
"""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_OFFSET: Final = 0


def generate(machine: str, kind: str) -> bytes:
    """Return a filter of `KINDS` for a machine: an array of ``struct sock_filter`` (seccomp(2))."""
    import pyseccomp  # noqa: PLC0415 - a maintainer's tool, not there at run time

    built = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    # What a kernel without that architecture would say.
    built.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    # Search by halves and not one by one: a call costs a dozen comparisons, not a hundred.
    built.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    architectures = [getattr(pyseccomp.Arch, name) for name in FILTERS[machine]]
    for architecture in architectures:
        if not built.exist_arch(architecture):
            built.add_arch(architecture)
    native = pyseccomp.system_arch()
    if native not in architectures:
        built.remove_arch(native)
    for rule in KINDS[kind]:
        built.add_rule(pyseccomp.ERRNO(rule.error), rule.call, *_conditions(rule))
    with tempfile.TemporaryFile() as file:
        built.export_bpf(file)
        file.seek(0)
        return (_refuse_newer() if RULES[0] in KINDS[kind] else b"") + file.read()


def _conditions(rule: Rule) -> list[object]:
    import pyseccomp  # noqa: PLC0415 - as above

    if rule.unless is not None:
        return [pyseccomp.Arg(rule.argument, pyseccomp.NE, rule.unless)]
    if rule.mask:
        return [pyseccomp.Arg(rule.argument, pyseccomp.MASKED_EQ, rule.mask, rule.value)]
    return []


def _refuse_newer() -> bytes:
    import pyseccomp  # noqa: PLC0415 - as above

    refusal = _INSTRUCTION.pack(_RETURN, 0, 0, pyseccomp.ERRNO(errno.EPERM))
    tests = [
        _INSTRUCTION.pack(_JUMP_IF_EQUAL, 0, 1, number) + refusal for number in NEWER_CALLS.values()
    ]
    return _INSTRUCTION.pack(_LOAD, 0, 0, _NUMBER_OFFSET) + b"".join(tests)


def main() -> None:
    """Write the filters beside this module."""
    for machine in FILTERS:
        for kind in KINDS:
            target = Path(__file__).with_name(f"{machine}-{kind}.bpf")
            target.write_bytes(generate(machine, kind))


if __name__ == "__main__":
    main()

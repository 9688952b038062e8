"""Interpret a system call filter as the kernel does, also for machines other than this one."""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Callable, Sequence

from streamer.sandbox.seccomp.rules import Differs, Numbered, Rule

__all__ = ["HIGH", "arguments_for", "verdict", "with_high_bits"]

HIGH = 0xDEAD_BEEF << 32
"""The upper half of a register, which the kernel ignores in 32-bit arguments."""

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
LOAD, RETURN, AND, GO = 0x20, 0x06, 0x54, 0x05
JUMPS: dict[int, Callable[[int, int], object]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: operator.and_,
}


@functools.cache
def instructions_of(program: bytes) -> list[tuple[int, ...]]:
    return list(struct.iter_unpack("<HBBI", program))


def verdict(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Return the errno with which the filter refuses a call, or 0 if it allows it."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = instructions_of(program)
    at = accumulator = 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == LOAD:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == AND:
            accumulator &= operand
        elif code == GO:
            at += operand
        elif code in JUMPS:
            at += if_true if JUMPS[code](accumulator, operand) else if_false
        else:
            assert code == RETURN, f"instruction {at - 1}: unknown code {code:#x}"
            if operand == ALLOW:
                return 0
            assert operand & 0xFFFF0000 == ERRNO, f"instruction {at - 1}: {operand:#x}"
            return operand & 0xFFFF


def arguments_for(rule: Rule | Numbered) -> list[int]:
    """Return arguments that fulfil all conditions of a rule."""
    arguments = [0] * 6
    for condition in rule.conditions:
        differs = isinstance(condition, Differs)
        arguments[condition.argument] |= condition.value ^ (0x40_0000 if differs else 0)
    return arguments


def with_high_bits(rule: Rule | Numbered, arguments: Sequence[int]) -> list[int]:
    """Return the arguments with the upper halves set in those that the rule compares."""
    looked_at = {condition.argument for condition in rule.conditions}
    return [value | (HIGH if at in looked_at else 0) for at, value in enumerate(arguments)]

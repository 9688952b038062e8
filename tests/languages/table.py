"""The table: one row for each language, with a program for each thing that all of them can do."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

__all__ = ["LETTERS", "Row"]

LETTERS = "\u00e4\u20ac\u4e2d\U0001f600"
"""Of two, three, three and four bytes."""


@dataclass(frozen=True)
class Row:
    """Programs of one language; one that it has no such thing for is empty.

    `hello` prints hello. `error` ends by an uncaught error that says boom, with `exit_code`.
    `broken` is none of the language; the message has `complains`. `adds` prints the sum of the
    numbers on standard input (`numbers`), `arguments` its arguments (`given`), one a line. `letters`
    prints `LETTERS` and then the line that it reads. `threads` starts eight, which print 28 together.
    `endless` never ends by itself and uses the processor. `waits` prints a line without asking for
    it to be written, and then neither writes nor reads for a minute.
    """

    language: str
    hello: str
    error: str
    broken: str
    adds: str
    arguments: str
    letters: str
    threads: str
    endless: str
    waits: str
    exit_code: int = 1
    complains: str = ""
    numbers: str = "3\n4\n"
    given: tuple[str, ...] = ("a b", "--x", LETTERS)
    line: str = LETTERS

    def program(self, name: str) -> str:
        return textwrap.dedent(getattr(self, name)).lstrip("\n")

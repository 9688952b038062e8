"""Say what an attack is: a program that a job runs, and how it is told whether it achieved it.

A program is Python and begins with `PRELUDE`. It ends by saying ``held(why)`` or
``escaped(how)``; one that says neither proves nothing and fails the suite, unless a judge of
its own reads the job's verdict. The host is looked at besides, whatever the program says.

Each attack is harmless where it succeeds: it reads lures and canaries, writes values that
are there already, asks the kernel for what fails later for another reason, and has a bound.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from streamer.spi import Backend, Isolation
from streamer.testing.programs import PRELUDE
from streamer.testing.running import Ran

__all__ = [
    "HOST_VISIBLE",
    "Attack",
    "NoProof",
    "ends",
    "exits",
    "spoken",
    "spoken_or",
]

MIB: Final = 1024 * 1024


class NoProof(AssertionError):
    """The program did not run to where anything could be told from it."""


Judge = Callable[[Ran], list[str]]
"""Return what the attack achieved, empty when it was held. Raises `NoProof`."""


def spoken(ran: Ran) -> list[str]:
    """Believe the program's own word: exactly one line that begins with it."""
    lines = [line for line in ran.text().splitlines() if line.startswith(("HELD", "ESCAPED"))]
    if len(lines) != 1:
        raise NoProof(f"the attack said {lines or 'nothing'}: {ran.verdict}: {_heard(ran)}")
    return [line for line in lines if line.startswith("ESCAPED")]


def spoken_or(*verdicts: str) -> Judge:
    """Accept one of these verdicts (`Ran.verdict`, or its first word) as held; else its word."""
    return lambda ran: [] if _is_one(ran, verdicts) and "ESCAPED" not in ran.text() else spoken(ran)


def ends(*verdicts: str) -> Judge:
    """Accept only one of these verdicts (`Ran.verdict`, or its first word)."""

    def judge(ran: Ran) -> list[str]:
        if _is_one(ran, verdicts) and "ESCAPED" not in ran.text():
            return []
        return [f"it ended by {ran.verdict}: {_heard(ran)}"]

    return judge


def exits(code: int, out: str | None = None) -> Judge:
    """Accept only this exit code, and this standard output where one is given."""

    def judge(ran: Ran) -> list[str]:
        found = []
        if ran.verdict != f"exited {code}":
            found.append(f"it passes for {ran.verdict}: {_heard(ran)}")
        if out is not None and ran.text() != out:
            found.append(f"its output became {ran.text()[:200]!r}")
        return found

    return judge


def _is_one(ran: Ran, verdicts: tuple[str, ...]) -> bool:
    return ran.verdict in verdicts or ran.verdict.partition(" ")[0] in verdicts


def _heard(ran: Ran) -> str:
    return (ran.text("stderr") or ran.text())[-300:]


HOST_VISIBLE: Final[Mapping[Isolation, str]] = {
    Isolation.NONE: "it sees the host's files and network"
}


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt. Its `name` completes "a job tries to get at"."""

    name: str
    program: str
    except_for: Mapping[Isolation, str] = field(default_factory=dict)
    """The kinds of isolation that do not promise to withstand, each with the reason."""
    covers: tuple[int, ...] = ()
    """The numbered failures of other projects that it is about: docs/escape-matrix.md."""
    judge: Judge = spoken
    limits: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    """The field of `Limits` that it goes over: not promised where nothing enforces that."""
    without_groups: Mapping[Isolation, str] = field(default_factory=dict)
    """As `except_for`, on a host without control groups only."""
    language: Literal["", "build", "c", "cpp"] = ""
    """Empty: the Python program is run. ``build``: it is what *compiles*. Else its source."""
    neighbour: bool = False
    """Whether another job runs meanwhile, of which the hint tells; it must not notice."""
    knocks: bool = False
    """Whether the host tries to connect to the port ``door`` of the hint meanwhile."""
    times: int = 1
    """How often it is run: one on the *next* job lays its trap the first time."""
    alone: bool = False
    """Whether the host has to be looked at, or loaded, by nothing else meanwhile."""

    @property
    def source(self) -> str:
        """The whole program."""
        text = textwrap.dedent(self.program)
        return text if self.language in ("c", "cpp") else PRELUDE + text

    def not_promised(self, backend: Backend, enforces: Mapping[str, str]) -> str:
        """Return why a backend does not promise to withstand, or ``""`` where it does.

        `enforces` is what `streamer.sandbox.enforcement.enforcement` says of it here.
        """
        if reason := self.except_for.get(backend.isolation):
            return reason
        if self.limit and enforces[self.limit] == "none":
            return f"the backend does not limit {self.limit}"
        if enforces["memory_bytes"].startswith("cgroup"):
            return ""
        return self.without_groups.get(backend.isolation, "")

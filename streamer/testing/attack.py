"""An attack: a program that a job runs, and how to judge whether it succeeded.

The program is Python and begins with `PRELUDE`. It ends by calling ``held(why)`` or
``escaped(how)``; without either it proves nothing and the suite fails, unless the attack has its
own judge of the verdict. In addition the host is checked, whatever the program says.

Attacks are harmless even if they succeed: they read lures and canaries, write values that are
there already, request from the kernel what fails later for another reason, and are bounded.
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
    "spoken_in",
    "spoken_or",
]

MIB: Final = 1024 * 1024


class NoProof(AssertionError):
    """The program did not get far enough to prove anything."""


Judge = Callable[[Ran], list[str]]
"""Returns what the attack achieved, empty if it was held. Raises `NoProof`."""


def spoken(ran: Ran) -> list[str]:
    """Judge by the program's output: exactly one line that begins with HELD or ESCAPED."""
    lines = [line for line in ran.text().splitlines() if line.startswith(("HELD", "ESCAPED"))]
    if len(lines) != 1:
        raise NoProof(f"the attack said {lines or 'nothing'}: {ran.verdict}: {_heard(ran)}")
    return [line for line in lines if line.startswith("ESCAPED")]


def spoken_or(*verdicts: str) -> Judge:
    """Accept these verdicts (`Ran.verdict` or its first word) as held; else judge as `spoken`."""
    return lambda ran: [] if _is_one(ran, verdicts) and "ESCAPED" not in ran.text() else spoken(ran)


def spoken_in(cases: int) -> Judge:
    """Judge each of so many cases as `spoken`."""

    def judge(ran: Ran) -> list[str]:
        parts = [ran.of_case(index) for index in range(cases)]
        return [line for part in parts for line in spoken(part)]

    return judge


def ends(*verdicts: str) -> Judge:
    """Accept only these verdicts (`Ran.verdict` or its first word)."""

    def judge(ran: Ran) -> list[str]:
        if _is_one(ran, verdicts) and "ESCAPED" not in ran.text():
            return []
        return [f"it ended by {ran.verdict}: {_heard(ran)}"]

    return judge


def exits(code: int, out: str | None = None) -> Judge:
    """Accept only this exit code and, if given, this standard output."""

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
    """The kinds of isolation that do not promise to withstand it, with the reason."""
    covers: tuple[int, ...] = ()
    """The numbers of the failures of other projects that it tests: docs/escape-matrix.md."""
    judge: Judge = spoken
    limits: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    """The field of `Limits` that it exceeds; not promised if nothing enforces that limit."""
    without_groups: Mapping[Isolation, str] = field(default_factory=dict)
    """As `except_for`, but only on a host without control groups."""
    language: Literal["", "build", "c", "cpp"] = ""
    """Empty: run the Python program. ``build``: it is the *compiler*. Otherwise a source text."""
    neighbour: bool = False
    """Whether another job, described in the hint, runs meanwhile; it must not notice."""
    build: bool = False
    """Whether a compiled program of another tenant, which has the secret, is kept meanwhile."""
    knocks: bool = False
    """Whether the host meanwhile tries to connect to the port ``door`` of the hint."""
    terminal: bool = False
    """Whether it runs on a terminal; where there are none it is not run."""
    times: int = 1
    """How often it is run: an attack on the *next* job lays its trap in the first run."""
    cases: int = 0
    """In how many cases of one job it is run, if in any."""
    project: Mapping[str, str] = field(default_factory=dict)
    """The files of a project that it is run with, by name."""
    environment: bool = False
    """Whether it runs with packages of the operator's, of which `trusted` is one."""
    artifacts: tuple[str, ...] = ()
    """The patterns of the files that are kept of it, in which the host looks for the secret."""
    session: bool = False
    """Whether it is run in a session, whose files are then read and written from outside."""
    keeps: bool = False
    """Whether its session keeps what its jobs leave running, where that is possible."""
    alone: bool = False
    """Whether no other attack may run at the same time."""

    @property
    def source(self) -> str:
        text = textwrap.dedent(self.program)
        return text if self.language in ("c", "cpp") else PRELUDE + text

    def not_promised(self, backend: Backend, enforces: Mapping[str, str]) -> str:
        """Return why a backend does not promise to withstand it, or ``""`` if it does.

        `enforces` is how each limit is enforced (`streamer.sandbox.enforcement`).
        """
        if reason := self.except_for.get(backend.isolation):
            return reason
        if self.limit and enforces[self.limit] == "none":
            return f"the backend does not limit {self.limit}"
        if enforces["memory_bytes"].startswith("cgroup"):
            return ""
        return self.without_groups.get(backend.isolation, "")

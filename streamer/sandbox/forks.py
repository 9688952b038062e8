"""Know which programs are forked from an interpreter that runs already, and why others are not.

Such an interpreter is a template (`streamer.sandbox.templates`) that has become the program of one
tenant's jobs in one language (``init/forked``). Whatever keeps it from that, a job runs as by
default.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from streamer.model.capabilities import NOT_TESTED
from streamer.sandbox.shape import Program, Shape

__all__ = ["MAX_FAILURES", "ForkBounds", "Forks"]

log: Final = logging.getLogger(__name__)

RETRY_S: Final = 30.0
"""After a failure a program is started as by default for this time."""

MAX_FAILURES: Final = 3
"""After this many failures in a row its language is tested again."""

MOST_KNOWN: Final = 256
"""Of so many programs it is known how many jobs have run them."""


@dataclass(frozen=True, slots=True)
class ForkBounds:
    """When an interpreter is replaced: after so many jobs, or when it is so old."""

    jobs: int = 200
    age_s: float = 600.0


class Forks:
    def __init__(self, bounds: ForkBounds) -> None:
        self.bounds = bounds
        self.count = 0
        """How many sandboxes such interpreters have made."""
        self._why_not: dict[tuple[str, str], str] = {}
        self._retry_at: dict[tuple[str, Program], float] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._doubtful: set[tuple[str, str]] = set()
        self._wanted: dict[tuple[Shape, Program], int] = {}
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when a backend must be tested again."""

    def why_not(self, backend: str, language: str) -> str:
        """Return why no program of a language is forked in sandboxes of a backend, or ``""``."""
        return self._why_not.get((backend, language), NOT_TESTED)

    def tried(self, backend: str, language: str, why_not: str) -> None:
        """Record the result of a test, without which nothing is forked."""
        self._why_not[backend, language] = why_not
        self._doubtful.discard((backend, language))
        del self._failures[backend, language]

    def needs_test(self, backend: str, language: str) -> bool:
        """Return whether a test has failed, or jobs have since one succeeded."""
        return bool(self.why_not(backend, language)) or (backend, language) in self._doubtful

    def languages(self, backend: str) -> tuple[str, ...]:
        """Return those whose programs are forked."""
        return tuple(
            sorted(name for (at, name), why in self._why_not.items() if (at, why) == (backend, ""))
        )

    def unforked(self, backend: str) -> Mapping[str, str]:
        """Return the others that were tested, and why their programs are not."""
        return {name: why for (at, name), why in self._why_not.items() if at == backend and why}

    def may(self, backend: str, program: Program | None) -> bool:
        """Return whether the program of a job may be forked, as far as is known."""
        if program is None or program.fork is None:
            return False
        retry_at = self._retry_at.get((backend, _alike(program)), 0)
        return not self.why_not(backend, program.fork.language) and retry_at <= time.monotonic()

    def as_tested(self, backend: str, program: Program | None) -> Program | None:
        """Return the program as any tenant's, if none of its language is forked there."""
        if program is None or program.fork is None:
            return program
        why_not = self.why_not(backend, program.fork.language)
        return replace(program, fork=None) if why_not else program

    def wanted(self, shape: Shape, program: Program | None) -> None:
        """Note what a job runs: what only one has run so far is not forked.

        So jobs whose limits are all different start no interpreter each.
        """
        if program is not None and self.may(shape.backend, program):
            key = _key(shape, program)
            self._wanted[key] = self._wanted.pop(key, 0) + 1
            if len(self._wanted) > MOST_KNOWN:
                del self._wanted[next(iter(self._wanted))]

    def chosen(self, shape: Shape, program: Program | None) -> Program | None:
        """Return the program if it is to be forked, which may not work."""
        if program is None or not self.may(shape.backend, program):
            return None
        key = _key(shape, program)
        return key[1] if self._wanted.get(key, 0) > 1 else None

    def worked(self, backend: str, program: Program) -> None:
        assert program.fork is not None
        self.count += 1
        del self._failures[backend, program.fork.language]

    def failed(self, backend: str, program: Program, failure: Exception) -> None:
        """Start the program as by default for some time.

        Only this one: callers choose the limits, and so whether Python can start with them. A test,
        whose limits are not theirs, finds out whether it is so for the whole language.
        """
        assert program.fork is not None
        key, now = (backend, program.fork.language), time.monotonic()
        if all(until <= now for until in self._retry_at.values()):
            log.warning("sandbox %s: no program of %s was forked: %s", *key, failure)
        self._retry_at.pop((backend, _alike(program)), None)
        self._retry_at[backend, _alike(program)] = now + RETRY_S
        if len(self._retry_at) > MOST_KNOWN:
            del self._retry_at[next(iter(self._retry_at))]
        self._failures[key] += 1
        if self._failures[key] == MAX_FAILURES:
            self._doubtful.add(key)
            self.on_doubt()


def _key(shape: Shape, program: Program) -> tuple[Shape, Program]:
    return shape, _alike(program)


def _alike(program: Program) -> Program:
    return replace(program, holds=True)  # which makes no difference here

"""When the parts of a job's run began, on the clock of its worker."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

__all__ = ["Timeline"]


@dataclass(slots=True)
class Timeline:
    """Times of `time.monotonic`; None for what it has not come to.

    `accepted` is when the job was accepted, `claimed` when its worker had it, `compiling` and
    `running` when the first program of that kind was started, `judged` when its verdict was known
    and nothing of it ran any more, `finished` when its log had that.
    """

    accepted: float
    claimed: float
    compiling: float | None = None
    running: float | None = None
    judged: float | None = None
    finished: float | None = None

    @property
    def start_s(self) -> float | None:
        """From the worker to the first program; None if it has none."""
        first = self.running if self.compiling is None else self.compiling
        return None if first is None else first - self.claimed

    @property
    def compile_s(self) -> float | None:
        """From the compiler to the program, or to the end of a job that had none."""
        until = self.judged if self.running is None else self.running
        if self.compiling is None or until is None:
            return None
        return until - self.compiling

    def parts(self) -> list[tuple[str, float, float]]:
        """Return name, begin and end of each part that is over, in their order."""
        marks = [
            ("wait", self.accepted),
            ("prepare", self.claimed),
            ("compile", self.compiling),
            ("run", self.running),
            ("finish", self.judged),
            ("", self.finished),
        ]
        known = [(name, at) for name, at in marks if at is not None]
        return [(name, at, max(until, at)) for (name, at), (_, until) in itertools.pairwise(known)]

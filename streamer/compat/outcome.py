"""Read what became of a job: the output of its compiler and of its program, and its end."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import streamer
from streamer.events import CaseEnd, Complete, Error, Gap, Output, Status, Truncated

__all__ = ["Outcome", "Printed", "outcome"]


@dataclass(slots=True)
class Printed:
    """What one program has written, in bytes: each stream, and both in the order of their events.

    Of each at most `limit` bytes are kept; `complete` tells whether that is all.
    """

    limit: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    complete: bool = True

    def add(self, event: Output) -> None:
        data = base64.b64decode(event.data) if event.encoding else event.data.encode()
        for kept in (self.stdout if event.stream == "stdout" else self.stderr, self.output):
            room = max(self.limit - len(kept), 0)
            kept.extend(data[:room])
            self.complete = self.complete and len(data) <= room


@dataclass(slots=True)
class Outcome:
    """A job that is over. `end` is its last event; `compiled_ms` how long its compiler took."""

    compile: Printed
    run: Printed
    end: Complete | Error
    compiled_ms: int = 0

    @property
    def case(self) -> Complete | CaseEnd | Error:
        """The end of the program's last run, where it ran as cases of its job; else of all."""
        cases = self.end.cases if isinstance(self.end, Complete) else None
        return self.end if not cases else cases[-1]


async def outcome(job: streamer.Job, limit: int) -> Outcome:
    """Wait for the end of a job and return what became of it; of its output `limit` bytes each.

    Of a job with cases it is what the last of them has written.

    Raises `UnknownJob`.
    """
    printed = {"compile": Printed(limit), "run": Printed(limit)}
    began = ended = 0
    case: int | None = None
    async for event in job.events():
        match event.data:
            case Output() as written:
                if written.case is not None and written.case != case:
                    case, printed["run"] = written.case, Printed(limit)
                printed[written.phase].add(written)
            case CaseEnd(index=index) if index != case:  # it has written nothing
                case, printed["run"] = index, Printed(limit)
            case Truncated() | Gap():
                printed["run"].complete = False
            case Status(state="compiling", t=began):
                pass
            case Status(state="running", t=ended):
                pass
            case Complete() | Error() as end:
                took = max(ended - began, 0) if began else 0
                return Outcome(printed["compile"], printed["run"], end, took)
            case _:
                pass
    return await _forgotten(job)


async def _forgotten(job: streamer.Job) -> Outcome:
    """Return the end of a job whose log ended without one, since it has expired meanwhile."""
    return Outcome(Printed(0, complete=False), Printed(0, complete=False), await job.result())

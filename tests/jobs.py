"""Run jobs without HTTP, and look at what a job leaves of itself on the host."""

from __future__ import annotations

import contextlib
import ctypes
import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamer.events import Complete, Error, Output
from streamer.jobs import JobSpec, SourceFile
from streamer.log import Event
from streamer.service import Job, JobService


@dataclass(frozen=True)
class Ran:
    """A job that is over, as a Python caller sees it."""

    events: tuple[Event, ...]

    @property
    def end(self) -> Complete | Error:
        """The one terminal event, which must be the last."""
        ends = [e.data for e in self.events if isinstance(e.data, Complete | Error)]
        assert len(ends) == 1, self.events
        assert self.events[-1].data is ends[0], self.events
        return ends[0]

    @property
    def complete(self) -> Complete:
        """The verdict of a job that could be run."""
        assert isinstance(self.end, Complete), self.end
        return self.end

    def text(self, stream: str = "stdout") -> str:
        """What the job wrote to a stream."""
        outputs = [e.data for e in self.events if isinstance(e.data, Output)]
        return "".join(output.data for output in outputs if output.stream == stream)

    @property
    def out(self) -> str:
        """Standard output of a job that ended with 0 and complained about nothing."""
        assert (self.complete.exit_code, self.text("stderr")) == (0, ""), self.events
        return self.text()


async def ended(job: Job) -> Ran:
    """Follow a job to its end."""
    return Ran(tuple([event async for event in job.events()]))


async def run_job(service: JobService, **spec: Any) -> Ran:
    """Submit a job to a service, with the fields of `JobSpec`, and follow it to its end."""
    return await ended(await service.submit(JobSpec(**spec)))


def program(source: str) -> dict[str, Any]:
    """Return the fields of a job that runs a Python program."""
    return {"command": ("python3", "-I", "main.py"), "files": (script("main.py", source),)}


def script(name: str, source: str, mode: int = 0o644) -> SourceFile:
    """Return a text file, its source indented as is convenient here."""
    return SourceFile(name, textwrap.dedent(source).encode(), mode)


def adopt_orphans() -> None:
    """Have the kernel give this process what its descendants leave behind (prctl(2)).

    So nothing that a job started can hide from `descendants` by losing its parent.
    """
    pr_set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0) == 0


def descendants() -> dict[int, str]:
    """Return the living processes that this one started, directly or not, with their names."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state not in "ZX":
            names[int(entry.name)] = stat[stat.index("(") + 1 : stat.rindex(")")]
        children.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    following = [os.getpid()]
    while following:
        for pid in children.get(following.pop(), ()):
            following.append(pid)
            if pid in names:
                found[pid] = names[pid]
    return found


def descriptors() -> dict[int, str]:
    """Return this process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found

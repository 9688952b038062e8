"""Run a probe's shell script as a job of a started service, and keep its result."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from streamer.doctor.lures import Lures
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.model.events import Complete, Error, Output
from streamer.model.job import JobSpec

__all__ = ["END", "Finding", "ProbeFailed", "Ran", "Target"]

END: Final = "probed"
"""Printed at the end of a script; without it the probe proves nothing."""


class ProbeFailed(Exception):
    """The job of a probe did not get far enough to prove anything."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy
        """What to do about that, where the probe's own remedy would not help."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a probe: whether the sandbox held, and what was observed."""

    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Ran:
    out: str
    err: str
    end: Complete

    @property
    def lines(self) -> list[str]:
        """The script's output without the mark at its end. Raises `ProbeFailed` without it."""
        lines = self.out.splitlines()
        if lines[-1:] != [END]:
            raise ProbeFailed(f"the script ended early: {self.verdict}: {self.err.strip()[:200]}")
        return lines[:-1]

    @property
    def verdict(self) -> str:
        end = self.end
        return " ".join(
            str(part) for part in (end.reason, end.signal or end.exit_code or "") if part
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where probes run: a service whose default backend is the one under test."""

    jobs: Jobs
    lures: Lures

    async def run(self, script: str, *arguments: str, **limits: float) -> Ran:
        return await _ended(await self._submit(script, arguments, limits, interactive=False))

    @asynccontextmanager
    async def running(self, script: str, *arguments: str) -> AsyncIterator[Job]:
        """Run a script that prints a line once it is ready; at the end close its input."""
        job = await self._submit(script, arguments, {}, interactive=True)
        async for event in job.events():
            if isinstance(event.data, Output | Complete | Error):
                break
        try:
            yield job
        finally:
            await job.end_input()
            await job.result()

    async def _submit(
        self,
        script: str,
        arguments: tuple[str, ...],
        limits: dict[str, float],
        *,
        interactive: bool,
    ) -> Job:
        command = ("/bin/sh", "-c", script, "sh", *arguments)
        return await self.jobs.submit(
            JobSpec(command=command, limits=limits, interactive=interactive)
        )


async def _ended(job: Job) -> Ran:
    texts = {"stdout": "", "stderr": ""}
    async for event in job.events():
        if isinstance(event.data, Output):
            texts[event.data.stream] += event.data.data
        elif isinstance(event.data, Error):
            raise ProbeFailed(f"the job could not be run: {event.data.code}: {event.data.message}")
        elif isinstance(event.data, Complete):
            return Ran(texts["stdout"], texts["stderr"], event.data)
    raise ProbeFailed("the job has no verdict")

"""Define the engine: where jobs wait, where their events are kept, and who runs them.

Two sides share it. The API side (`Broker`) accepts jobs and reads their logs; the
worker side (`Runner`, `Lease`) claims jobs and writes their events. What holds for
every engine, and is tested for each by ``tests/engine``:

- Event numbers of a job are dense from 1; they are the ids that readers resume from.
- Nothing follows the terminal event, and there is exactly one, whatever races
  (a cancellation, the end of the job, a lost worker, the shutdown).
- An `append` that returned is seen by every later read.
- A slow reader never delays an `append`.
- A log may be opened before, during and after the run.
- Two submissions with one idempotency key give one job.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from streamer.eventlog.joblog import JobLog
from streamer.model.events import JobEvent
from streamer.model.job import ResolvedJob

__all__ = [
    "Broker",
    "Cancel",
    "CancelResult",
    "Control",
    "Engine",
    "Eof",
    "Idempotency",
    "Input",
    "JobPlace",
    "JobState",
    "JobView",
    "Lease",
    "LeaseLost",
    "Lost",
    "Runner",
    "Signal",
    "Stats",
    "Submitted",
]

JobState = Literal["queued", "preparing", "compiling", "running", "complete", "error"]
"""How far a job is; the last two are final and named like the terminal events."""

JobPlace = tuple[float, str]
"""Where a list of jobs goes on: behind the job that was created then and has this id."""

CancelResult = Literal["cancelled", "requested", "done", "unknown"]
"""``cancelled``: it was queued and is over; ``requested``: its worker was told."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The caller's key and a digest of the request that came with it."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submission: `created` is False when the key was known already."""

    job_id: str
    created: bool


@dataclass(frozen=True, slots=True)
class JobView:
    """A snapshot of one job. Times are seconds since the epoch (`time.time`).

    `position` is its place among those that wait, from 1, where it was asked for by itself.
    """

    job: ResolvedJob
    tenant: str
    state: JobState
    created_at: float
    started_at: float | None
    finished_at: float | None
    result: JobEvent | None
    first_output_at: float | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """How busy the engine is. `oldest_wait_s` is 0 when nothing waits.

    `log_bytes` is what the logs take in memory and `disk_bytes` what they take on disk,
    `waiting_bytes` what the waiting jobs were submitted with, `record_bytes` what is kept of
    finished ones. `estimated_wait_s` is how long a job that comes now would wait, of a
    tenant that has no more running than it may.
    """

    waiting: int
    running: int
    oldest_wait_s: float
    logs: int
    log_bytes: int
    disk_bytes: int = 0
    waiting_bytes: int = 0
    record_bytes: int = 0
    estimated_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the job; it ends with reason ``cancelled``."""


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the program's standard input."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Eof:
    """The end of the program's standard input."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the program, by number."""

    number: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease was taken away: kill the sandbox, write nothing more."""


Control = Cancel | Signal | Lost


class LeaseLost(Exception):
    """The lease is not ours any more: kill the sandbox and write nothing."""


class Broker(Protocol):
    """The API side of an engine."""

    async def submit(
        self, job: ResolvedJob, *, tenant: str = "", idempotency: Idempotency | None = None
    ) -> Submitted:
        """Accept a job and start its log, or refuse at once.

        Raises `Busy` when the queue is full, or with the code ``rate_limited`` the tenant's share
        of it, `TooLarge` when the job could never wait in it, `Conflict`
        when the idempotency key came with another request before, `Draining` after
        `drain`.
        """

    async def open(self, job_id: str) -> JobLog:
        """Return the job's log, for any number of readers. Raises `UnknownJob`."""

    async def status(self, job_id: str) -> JobView | None:
        """Return a snapshot of the job, or None if there is none."""

    async def jobs(
        self,
        *,
        tenant: str,
        state: JobState | None = None,
        limit: int = 50,
        before: JobPlace | None = None,
    ) -> Sequence[JobView]:
        """Return the tenant's jobs, newest first, those before a place.

        The job that was there may be gone: the others are still told, each once.
        """

    async def position(self, job_id: str) -> int | None:
        """Return the job's place among the waiting, from 1, or None once it is claimed."""

    async def cancel(self, job_id: str) -> CancelResult:
        """End a queued job now, or ask the worker of a running one. Idempotent."""

    async def send(
        self, job_id: str, control: Input | Eof | Signal
    ) -> Literal["accepted", "closed"]:
        """Hand something to the job's program; kept while the job is queued.

        Raises `Busy` when the input buffer is full, `UnknownJob`.
        """

    async def purge(self, job_id: str) -> bool:
        """Forget a finished job; False if it is not finished. Raises `UnknownJob`."""

    async def stats(self) -> Stats:
        """Return how busy the engine is."""

    async def ready(self) -> bool:
        """Tell whether the engine is reachable and takes jobs; a full queue is no reason against.

        Else one caller who fills it would take everybody's streams out of a load balancer.
        """

    async def drain(self) -> None:
        """Accept no more jobs, and end with ``shutting_down`` those only this process knows."""

    async def close(self) -> None:
        """Release what the engine holds. The engine is not used afterwards."""


class Runner(Protocol):
    """The worker side of an engine."""

    @property
    def heartbeat_s(self) -> float:
        """How often `heartbeat` is due, in seconds: a third of a lease's time."""

    async def claim(self, worker: str, free: int) -> Sequence[Lease]:
        """Wait up to a second for jobs and return at most `free` of them."""

    async def heartbeat(self, leases: Sequence[Lease]) -> None:
        """Keep the leases."""

    async def reap(self) -> int:
        """End jobs whose worker is gone with ``worker_lost``; return how many."""


class Lease(Protocol):
    """One claimed job, in the hands of one worker."""

    @property
    def job(self) -> ResolvedJob:
        """The job to run."""

    @property
    def accepted_at(self) -> float:
        """When the job was accepted, on this machine's `time.monotonic` clock."""

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Write encoded events in order, idempotently. Raises `LeaseLost`."""

    @property
    def full(self) -> bool:
        """Whether the program has to be held before it writes more: see `room`."""

    async def room(self) -> None:
        """Wait until there is room for more events. What is appended all the same is kept."""

    async def state(self, state: Literal["preparing", "compiling", "running"]) -> None:
        """Record how far the job is, and append the status event that says so."""

    async def finish(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Write the last events, the last of them terminal, and end the job, at once.

        Returns False, and writes nothing, if the job was already over.
        """

    async def release(self) -> bool:
        """Give the job back to the queue; only before its sandbox started."""

    def control(self) -> AsyncIterator[Control]:
        """Yield what the API side asks of this job, until the job is over."""

    def inputs(self) -> AsyncIterator[Input | Eof]:
        """Yield what is meant for the program's standard input, one taken after another.

        Apart from `control`, so that a program that does not read never delays a
        cancellation; what is not taken yet counts against the input buffer.
        """


class Engine(Broker, Runner, Protocol):
    """Both sides in one object, as an embedded engine is."""

    async def start(self, folder: Path) -> None:
        """Begin, before any job: connect, or whatever it takes.

        `folder` is one of this process's own, for what need not outlive it.
        """

"""Define the engine: where jobs wait, where their events are kept, and who runs them.

Two sides share it. The API side (`Broker`) accepts jobs and reads their logs; the
worker side (`Runner`, `Lease`) claims jobs and writes their events. What holds for
every engine, and is tested for each by ``tests/engine``:

- Event numbers of a job are dense from 1; they are the ids that readers resume from.
- Nothing follows the terminal event, and there is exactly one, whatever races
  (a cancellation, the end of the job, a lost worker, the shutdown).
- An `append` that returned is seen by every later `follow`.
- A slow reader never delays an `append`, unless the engine is told to wait for readers.
- A log may be followed before, during and after the run.
- Two submissions with one idempotency key give one job.
- A lease that was lost writes nothing.

An engine may be of one process, or between many: what only the first can do, it says (`alone`).

An engine that is reached over a connection may lose it. What a `Broker` was asked it repeats by
itself, and nothing of it is done twice. On the worker's side the call raises ConnectionError and
may have been done or not; then

- `Lease.append`, `state` and `finish` are said again by the worker with the same events, before any
  other of them. The engine knows the repetition, writes it once, and answers as it would have;
- `Runner.claim` is called again under the same name, and begins with what the lost answer held;
- `heartbeat`, `reap` and `publish` are due again anyway;
- `Lease.control` and `inputs` are opened again, and go on behind the last that was taken from them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from streamer.eventlog.view import JobLogView
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.events import JobEvent
from streamer.model.job import JobFacts, ResolvedJob

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

    It has none of the files, variables and input, which may be megabytes. `position` is its place
    among those that wait, from 1, where it was asked for by itself.
    """

    job: JobFacts
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

    @property
    def alone(self) -> bool:
        """Whether all that use it are in this process.

        Only then can it hold a program until its readers have taken what it wrote, and only then
        has a job that this process's worker cannot run no other worker.
        """

    async def submit(
        self,
        job: ResolvedJob,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
        only_repeated: bool = False,
    ) -> Submitted:
        """Accept a job and start its log, or refuse at once.

        Raises `Busy` when the queue is full, or `RateLimited` when the tenant's share
        of it, `TooLarge` when the job could never wait in it, `Conflict`
        when the idempotency key came with another request before, `Draining` after
        `drain`, or with `only_repeated` if the key is new: an API side that stops accepts no job
        that another process would have to answer for.
        """

    def follow(self, job_id: str, after: int = 0) -> AbstractAsyncContextManager[JobLogView]:
        """Open the reading side of a job's log; whoever opened it closes it.

        Once it is entered the view has all that was appended before and follows event `after`, and
        then gets what comes. What is up to `after` it need not have; but where the job has no event
        of that number (`last_id` is lower then) it has everything. Raises `UnknownJob`.

        It may lag behind the log of which it is a copy, and never skips, doubles or reorders an
        event. If the job is forgotten before all of it has come, it ends with a `Gap` of the reason
        ``expired``.
        """

    async def summary(self, job_id: str) -> JobView | None:
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

    async def cancel(self, job_id: str) -> CancelResult:
        """End a queued job now, or ask the worker of a running one. Idempotent."""

    async def send(
        self, job_id: str, control: Input | Eof | Signal, number: int | None = None
    ) -> Literal["accepted", "closed"]:
        """Hand something to the job's program; kept while the job is queued.

        Who may have to say it again numbers it, from 1 and growing: a `number` that is not above
        the last one that was accepted is a repetition, which is accepted and not handed on.
        Raises `Busy` when the input buffer is full, `UnknownJob`.
        """

    async def purge(self, job_id: str) -> bool:
        """Forget a finished job; False if it is not finished. Raises `UnknownJob`."""

    async def capabilities(self) -> Sequence[Capabilities]:
        """Return what each worker that is there has published last."""

    async def stats(self) -> Stats:
        """Return how busy the engine is."""

    async def ready(self) -> bool:
        """Tell whether the engine is reachable and takes jobs; a full queue is no reason against.

        Else one caller who fills it would take everybody's streams out of a load balancer.
        """

    async def drain(self) -> None:
        """Accept no more jobs, and end with ``shutting_down`` those only this process knows."""


class Runner(Protocol):
    """The worker side of an engine."""

    @property
    def heartbeat_s(self) -> float:
        """How often `heartbeat` is due, in seconds: a third of a lease's time."""

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        """Say what a worker has, or that it is no more.

        A worker says it again whenever it changes, and with each `heartbeat`: an engine between
        many processes forgets a worker that it has not heard for a lease's time.
        """

    async def claim(
        self, worker: str, free: int, accepts: Accepts | None = None
    ) -> Sequence[Lease]:
        """Wait up to a second for jobs and return at most `free` of them.

        Of those that `accepts` takes, where it is given; the others keep their turns. A worker has
        one claim at a time. What one has taken that was cancelled comes with the worker's next,
        or is ended with ``shutting_down`` once this process drains.
        """

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        """Keep the leases; return those that are lost, and those whose jobs are to be cancelled.

        The same is said to `Lease.control`, which may be cut off.
        """

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
        """Write encoded events in order. Raises `LeaseLost`."""

    @property
    def full(self) -> bool:
        """Whether the program has to be held before it writes more: see `room`.

        Only where the engine waits for readers (``streams.on_full = "wait"``).
        """

    async def room(self) -> None:
        """Wait until there is room for more events. What is appended all the same is kept."""

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        """Record how far the job is, and append the status event that says so.

        `policy` is recorded too, where it is given: what the job is confined by here.
        """

    async def finish(self, events: Sequence[tuple[str, bytes]]) -> bool:
        """Write the last events, the last of them terminal, and end the job, at once.

        Returns False, and writes nothing, if the job was already over.
        """

    def control(self) -> AsyncIterator[Control]:
        """Yield what the API side asks of this job, until the job is over."""

    def inputs(self) -> AsyncIterator[Input | Eof]:
        """Yield what is meant for the program's standard input, one taken after another.

        Apart from `control`, so that a program that does not read never delays a
        cancellation; what is not taken yet counts against the input buffer.
        """


class Engine(Broker, Runner, Protocol):
    """Both sides in one object."""

    def listen(self, hear: Callable[[JobView], None]) -> None:
        """Have a function hear of each job that a call of this process has ended, once.

        By `Lease.finish`, `cancel`, `reap`, `drain` or `close`. It is called in the event loop,
        maybe after readers have had the end; what it raises is logged and changes nothing.
        """

    async def start(self, folder: Path) -> None:
        """Begin, before any job: connect, or whatever it takes.

        `folder` is one of this process's own, for what need not outlive it.
        """

    async def close(self) -> None:
        """Release what the engine holds. The engine is not used afterwards."""

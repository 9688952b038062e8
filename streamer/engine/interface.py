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
- A job whose worker is lost ends, or waits again in the place that it had if it may be run again
  (`retry`): then a status event says so first, and event numbers go on.

An engine belongs to one process (`alone`), or several processes share it.

The connection to an engine may break. A `Broker` repeats a broken call itself, without doing it
twice. A broken call of a `Runner` or `Lease` raises ConnectionError, and may have been done. Then

- the worker repeats `Lease.append`, `state` or `finish` with the same events before it calls
  another of them, unless that is `release`. The engine recognises a repetition, writes the
  events once, and answers as it answered, or would have answered, the first call;
- the worker calls `Runner.claim` again with the same name; the answer begins with the leases of
  the answer that was lost;
- `heartbeat`, `reap` and `publish` are called again anyway, at the next heartbeat;
- `Lease.control` and `inputs` are opened again, and continue after the last item that was taken.

What a job uses while it runs (`streamer.model.events.Stats`) is in no log. Who wants it opens
`Broker.usage`, and then sends a `Measure` now and again; the worker measures, and tells by
`Lease.tell_usage`, until nobody listens. A `Measure` goes as a `Resize` does; what is told goes to
those who listen at that moment, is kept nowhere, and may be lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

from streamer.engine.blobs import Blobs, JobFile
from streamer.engine.rates import Rates
from streamer.engine.sessions import Sessions
from streamer.engine.views import JobState, JobView
from streamer.engine.webhooks import Webhooks
from streamer.eventlog.view import JobLogView
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.job import ResolvedJob

__all__ = [
    "SECRET_BYTES",
    "AppendNow",
    "Broker",
    "Cancel",
    "CancelResult",
    "Control",
    "Engine",
    "Eof",
    "FinishNow",
    "Idempotency",
    "Input",
    "JobPlace",
    "JobState",
    "JobView",
    "KnowsNodes",
    "Lease",
    "LeaseLost",
    "Lost",
    "Measure",
    "OwnQueue",
    "Resize",
    "Runner",
    "Signal",
    "Stats",
    "Submitted",
    "WaitingJob",
]

SECRET_BYTES: Final = 32

JobPlace = tuple[float, str]
"""Where a list continues: after the job with this creation time (`time.time`) and id."""

CancelResult = Literal["cancelled", "requested", "done", "unknown"]
"""``cancelled``: the job was queued and is over; ``requested``: its worker will stop it; ``done``:
it was over before; ``unknown``: there is no such job."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key, which means one job, and the SHA-256 of the request that had it."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submission; not `created` if its key, or its job's id, was known already."""

    job_id: str
    created: bool


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job in the queue; `position` counts from 1."""

    job_id: str
    position: int
    estimated_wait_s: float


@dataclass(frozen=True, slots=True)
class OwnQueue:
    """What a tenant has in the queue: all numbers, and the next few of its jobs.

    `estimated_wait_s` is how long a job of it would wait that is submitted now, `most_running` how
    many of them may run.
    """

    running: int
    waiting: int
    most_running: int | None
    estimated_wait_s: float
    jobs: Sequence[WaitingJob] = ()


@dataclass(frozen=True, slots=True)
class Stats:
    """How busy the engine is. `oldest_wait_s` is 0 if no job waits.

    `log_bytes` is the size of all logs in memory, `disk_bytes` on disk, `waiting_bytes` that of the
    waiting jobs with everything they were submitted with, `record_bytes` that of the records of
    finished jobs, `blob_bytes` the disk space of projects and artifacts. `estimated_wait_s` is how
    long a job submitted now would wait, if its tenant is below its limit of running jobs.
    `sessions` are those that have not ended, `webhooks` those that wait for the end of their jobs
    or for their delivery.
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
    blob_bytes: int = 0
    sessions: int = 0
    webhooks: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the job; it ends with reason ``cancelled``."""


@dataclass(frozen=True, slots=True)
class Input:
    """Bytes for the program's standard input, or typed on its terminal.

    `at` is where they begin in all input of the job, if its caller counts them: what has come
    already is dropped, so that they can be sent twice.
    """

    data: bytes
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Eof:
    """The end of the program's standard input; nothing follows it. `at` is as in `Input`."""

    at: int | None = None


@dataclass(frozen=True, slots=True)
class Resize:
    """A size of the program's terminal; only the last one matters."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the program; `number` as in signal(7)."""

    number: int


@dataclass(frozen=True, slots=True)
class Measure:
    """Somebody has begun to listen to what the job uses, or still does; only the last matters."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is lost (`LeaseLost`)."""


Control = Cancel | Signal | Resize | Measure | Lost


class LeaseLost(Exception):
    """Another worker may have the job: kill its sandbox, and write nothing more."""


class Broker(Protocol):
    """The API side of an engine."""

    @property
    def alone(self) -> bool:
        """Whether only this process uses the engine.

        Only then can it hold a program until its readers have its output (``on_full = "wait"``),
        and only then does the worker claim jobs that it cannot run: no other worker could.
        """

    @property
    def blobs(self) -> Blobs:
        """The projects and artifacts, between `start` and `close`."""

    @property
    def sessions(self) -> Sessions:
        """The sessions; their API side."""

    @property
    def webhooks(self) -> Webhooks:
        """The webhooks of jobs that are over."""

    @property
    def rates(self) -> Rates:
        """How often something was done lately."""

    async def submit(
        self,
        job: ResolvedJob,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Submitted:
        """Accept a job and start its log, or refuse at once.

        Another submission with a known `job_id` or key returns the same job. Raises `Busy` if the
        queue is full, `RateLimited` if the tenant's share of it is, `TooLarge` if the job could
        never fit into it, `Conflict` if the key was used with another request, `Gone` if the key's
        job is no longer kept, and `Draining` after `drain`.

        The blob of the job's project is kept until the job is over, though it is deleted or
        expires; if it was before, `InvalidJob` is raised. `Gone` or `NotFound` is raised if the
        job's session has ended, or there is none.
        """

    async def repeated(self, idempotency: Idempotency, *, tenant: str = "") -> str | None:
        """Return the id of the job that was submitted with a key, or None if the key is new.

        Also after `drain`, and for a job that could not be submitted any more. Raises `Conflict`
        and `Gone` as `submit` does.
        """

    def follow(self, job_id: str, after: int = 0) -> AbstractAsyncContextManager[JobLogView]:
        """Open a view of a job's log as an async context manager; the caller must close it.

        When it is entered, the view has every event after number `after` that was appended until
        then; later ones follow. Earlier events may be missing in it. If the log has no event
        `after` yet (`last_id` is lower), the view has all events. Raises `UnknownJob`.

        A view may lag behind the log, but never skips, repeats or reorders events. If the job is
        deleted before the view has all its events, the view ends with a `Gap` whose reason is
        ``expired``.
        """

    def usage(
        self, job_id: str, hear: Callable[[bytes], None]
    ) -> AbstractAsyncContextManager[None]:
        """Call `hear` in the event loop with what `Lease.tell_usage` gets while this is open.

        Raises `UnknownJob` when it is entered. Several may listen to one job, in one process too.
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
        """Return at most `limit` of the tenant's jobs, newest first, created before the place.

        Paging by the place of the last job returns each job once, even if some are deleted
        meanwhile.
        """

    async def cancel(self, job_id: str) -> CancelResult:
        """End a queued job now, or ask the worker of a running one. Idempotent."""

    async def send(
        self,
        job_id: str,
        control: Input | Eof | Signal | Resize | Measure,
        number: int | None = None,
    ) -> Literal["accepted", "closed"]:
        """Send input, a signal or a size to the job's program; it is kept until the program runs.

        ``closed`` if the job or its input is over, if it is input for a job that takes none, or a
        size for one without a terminal. Input that says where it begins is accepted once, however
        often it is sent; `Conflict` if something before it is missing.
        Callers that may have to repeat a call pass increasing numbers from 1: a `number` that is
        not above the last accepted one is a repetition, which is accepted and dropped. Raises
        `UnknownJob`, `Busy` if the input buffer is full, `TooLarge` if the item could never fit.
        """

    async def purge(self, job_id: str) -> bool:
        """Delete a finished job's record, log and files; False if it is not over.

        Raises `UnknownJob`.
        """

    async def files(self, job_id: str) -> Sequence[JobFile]:
        """Return the files that a finished job has left. Raises `UnknownJob`."""

    async def capabilities(self) -> Sequence[Capabilities]:
        """Return what each living worker has published last."""

    async def secret(self, name: str) -> bytes:
        """Return the random bytes of this name, the same for all who share the engine.

        They are as old as the engine's jobs: what loses those loses it too.
        """

    async def stats(self) -> Stats: ...

    async def own_queue(self, tenant: str) -> OwnQueue:
        """Return what a tenant has in the queue.

        Its estimates take into account how many of its jobs may run, positions do not.
        """

    async def ready(self) -> bool:
        """Tell whether the engine can be reached and accepts jobs; a full queue counts as ready.

        Otherwise a caller who fills the queue would make a load balancer drop all streams.
        """

    async def drain(self) -> None:
        """Accept no more jobs.

        Waiting jobs that no other process could run end with ``shutting_down``. Idempotent.
        """


class Runner(Protocol):
    """The worker side of an engine."""

    @property
    def blobs(self) -> Blobs:
        """The same as those of the `Broker`."""

    @property
    def sessions(self) -> Sessions:
        """The sessions; their worker's side."""

    @property
    def heartbeat_s(self) -> float:
        """How often `heartbeat` is due, in seconds: a third of a lease's time."""

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        """Publish what a worker can run; None withdraws it.

        Repeated at each change and with each `heartbeat`: an engine that processes share forgets a
        worker that has not published for the time of a lease.
        """

    async def claim(
        self, worker: str, free: int, accepts: Accepts | None = None
    ) -> Sequence[Lease]:
        """Wait up to a second for jobs and return at most `free` of them.

        With `accepts`, only jobs that it accepts; the others keep their turns. A job of a session
        goes to its worker only, once no other job of it runs. A worker has one claim at a time. If
        a call is cancelled, the jobs that it had claimed are returned by the worker's next call, or
        end with ``shutting_down`` once this process drains.
        """

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        """Renew these leases; return those that are lost, and those whose jobs must be cancelled.

        `Lease.control` yields the same, but its connection may be broken.
        """

    async def reap(self) -> int:
        """Take the jobs whose leases have expired from their workers; return how many these are.

        One that may be run again (`retry`), and has taken no input of its caller, waits again,
        before its tenant's jobs with no higher priority. The others end with ``worker_lost``.
        """


AppendNow = Callable[[Sequence[tuple[str, bytes]]], bool]
"""`append` for a lease that need not wait for anything, in an attribute `append_now`.

Optional: an engine of the worker's own process may have it. It appends the events and returns True
if there is room for them within all limits, so that the program need not be held either; otherwise
it changes nothing and returns False, and the worker awaits `append`. Raises `LeaseLost`.
"""

FinishNow = Callable[[Sequence[tuple[str, bytes]]], bool | None]
"""The same for a `finish` without files, in an attribute `finish_now`; None: nothing is changed."""


class Lease(Protocol):
    """One job claimed by one worker, which alone may write its events."""

    @property
    def job(self) -> ResolvedJob: ...

    @property
    def accepted_at(self) -> float:
        """When the job was accepted, on this machine's `time.monotonic` clock."""

    @property
    def attempt(self) -> int:
        """Which time the job is run, from 1."""

    async def append(self, events: Sequence[tuple[str, bytes]]) -> None:
        """Append encoded events (`streamer.model.events.encode`) to the log. Raises `LeaseLost`."""

    @property
    def full(self) -> bool:
        """Whether the program has to be held before it writes more: see `room`.

        Only where the engine waits for readers (``streams.on_full = "wait"``).
        """

    async def room(self) -> None:
        """Wait until there is room for more events. Events that are appended anyway are kept."""

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        """Record the job's state, and append the status event. Raises `LeaseLost`.

        `policy`, if given, is recorded too: the digest of what confines the job here.
        """

    async def finish(
        self, events: Sequence[tuple[str, bytes]], files: Sequence[JobFile] = ()
    ) -> bool:
        """Append the last events, of which the last is terminal, and end the job in one step.

        The blobs of `files` belong to the job from then on: they no longer expire by themselves,
        and are deleted with its record. Returns False, and changes nothing, if the job is already
        over. May raise `LeaseLost`.
        """

    async def release(self, *, ran: bool = False) -> bool:
        """Give the job back, to be run elsewhere; False if it stays with this lease.

        Without `ran` only if none of its programs was started, by its state. With it everything
        that was started is dead, and only a job that may be run again is taken, as by
        `Runner.reap`. No job of a session is, and none if no process takes jobs any more.
        Afterwards the lease is lost.
        """

    async def tell_usage(self, stats: bytes) -> bool:
        """Pass the encoded data of a `Stats` to all that listen; return whether anybody does.

        True if that is unknown. May raise `LeaseLost`, and is not repeated after ConnectionError.
        """

    def control(self) -> AsyncIterator[Control]:
        """Yield requests for the job from the API side, until the job is over."""

    def inputs(self) -> AsyncIterator[Input | Eof]:
        """Yield the program's standard input, up to its end or the end of the job.

        Separate from `control`, so that a program that does not read never delays a cancellation.
        Items that were not taken yet count against the input buffer.
        """


class Engine(Broker, Runner, Protocol):
    """Both sides in one object. It is started once, and closed once."""

    def listen(self, hear: Callable[[JobView], None]) -> None:
        """Call `hear` once for each job that a call of this process ends, in the event loop.

        Such calls are `Lease.finish`, `cancel`, `reap`, `drain` and `close`. Readers may have the
        end before. Exceptions of `hear` are logged and have no effect.
        """

    async def start(self, folder: Path) -> None:
        """Start the engine, for example connect, before any other call.

        The service waits 30 s for it, and as long for the first `publish`; then it does not start.
        `folder` is a private folder of this process, for files that need not outlive it.
        """

    async def close(self) -> None:
        """Release all resources, within 10 s. No other method may be called afterwards."""


@runtime_checkable
class KnowsNodes(Protocol):
    """What an engine may have too, if it knows in which process a job runs."""

    @property
    def node(self) -> str:
        """The name of this process."""

    async def node_gone(self, node: str) -> None:
        """Take back the leases of a process that is gone, with all that it ran."""

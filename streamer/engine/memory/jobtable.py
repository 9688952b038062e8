"""The jobs of one process: their states, their logs, and how long they are kept.

Nothing here waits, so every method is atomic on the event loop. This keeps the promises of
`streamer.engine.interface`: a job is in one place at a time (waiting, running or finished), and
only `JobTable.end` finishes it.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import logging
import math
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

from streamer.engine.blobs import JobFile
from streamer.engine.interface import Idempotency, JobPlace, JobState, JobView, WaitingJob
from streamer.engine.memory.fairqueue import FairQueue
from streamer.engine.memory.forgottenkeys import ForgottenKeys
from streamer.engine.memory.inbox import Inbox, Received
from streamer.engine.memory.pace import Pace
from streamer.engine.memory.waits import Waits
from streamer.engine.refusals import no_job, other_request
from streamer.engine.weight import RECORD_BYTES, weigh
from streamer.eventlog.block import Ledger
from streamer.eventlog.joblog import JobLog
from streamer.eventlog.spool import Spool
from streamer.model.events import Status, decode, encode
from streamer.model.job import JobFacts, Lane, ResolvedJob
from streamer.model.logfields import about

__all__ = ["JobTable", "Record"]

log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Record:
    """One job; `holder` is the lease that may write its events.

    `weight` is its memory besides its log: until it is over with everything it was submitted with,
    which is then dropped (`job` is None).
    """

    facts: JobFacts
    job: ResolvedJob | None
    tenant: str
    key: str | None
    accepted_at: float
    created_at: float
    log: JobLog
    weight: int
    place: int = 0
    """Its position in the queue in the last event about it."""
    wait_ms: int = 0
    """How long it would wait, by that event."""
    places_told: int = 0
    state: JobState = "queued"
    attempt: int = 1
    holder: object | None = None
    lease_until: float = 0.0
    claimed_at: float = 0.0
    started_at: float | None = None
    first_output_at: float | None = None
    finished_at: float | None = None
    keep_until: float = 0.0
    result: tuple[str, bytes] | None = None
    files: Sequence[JobFile] = ()
    """What it has left, once it is over."""
    sent: int = 0
    """The highest number of what was sent to it."""
    received: Received = field(default_factory=Received)
    listeners: set[Callable[[bytes], None]] | None = None
    """Those who want to know what it uses; few jobs have any."""
    spills_ahead: bool = True
    """Whether its events go to disk before they must: not after that was in vain."""

    @property
    def job_id(self) -> str:
        return self.facts.job_id

    @property
    def over(self) -> bool:
        """Whether its terminal event is written."""
        return self.result is not None

    @property
    def waiting(self) -> bool:
        return self.holder is None and not self.over

    def view(self, waits: WaitingJob | None = None) -> JobView:
        """Return a snapshot for callers; `waits` is its place in the queue."""
        return JobView(
            job=self.facts,
            tenant=self.tenant,
            state=self.state,
            created_at=self.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            first_output_at=self.first_output_at,
            position=None if waits is None else waits.position,
            estimated_wait_s=None if waits is None else waits.estimated_wait_s,
            result=None if self.result is None else decode(*self.result),
        )


class JobTable:
    """All jobs, by id, by tenant and by idempotency key."""

    def __init__(
        self,
        *,
        places: int,
        retention_s: float,
        spool: Spool,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        idempotency_s: float,
        max_idempotency_keys: int,
    ) -> None:
        self.queue = FairQueue()
        self.running: dict[str, Record] = {}
        self._waiting_again: dict[str, Record] = {}
        """Those in the queue that have had a worker."""
        self.bell = asyncio.Event()
        """Set when a worker may be able to take a job; clear it before waiting."""
        self.running_of: Counter[str] = Counter()
        """The number of running jobs, by tenant."""
        self.inboxes: dict[str, Inbox] = {}
        """The inboxes of jobs that are not over."""
        self.ledger = Ledger()
        """The sizes of all logs."""
        self.kept_bytes = 0
        """The size of the records of finished jobs."""
        self._pace = Pace(places)
        ages = partial(_ages, self.running, clock)
        self.waits = Waits(self.queue, self._pace, self.running_of, ages)
        self._spool = spool
        self._retention_s = retention_s
        self._clock = clock
        self._wall_clock = wall_clock
        self.hear: Callable[[JobView], None] = lambda _: None
        """Called for each job that is over."""
        self.release: Callable[[ResolvedJob], None] = lambda _: None
        """Called with what a job was submitted with, once it is over."""
        self.adopt: Callable[[JobFile], None] = lambda _: None
        """Called for each file that a job has left, once it is over."""
        self.drop: Callable[[JobFile], None] = lambda _: None
        """Called for each when the job is deleted."""
        self.ended: Callable[[JobView], None] = lambda _: None
        """Called with each job that is over, within the step that ends it."""
        self.forgotten: Callable[[str], None] = lambda _: None
        """Called with the id of each job that is deleted."""
        self._created_at = -math.inf
        self._records: dict[str, Record] = {}
        self._finished: OrderedDict[str, Record] = OrderedDict()
        self._unspilled: OrderedDict[str, Record] = OrderedDict()
        """The finished jobs whose logs are in memory, as far as is known."""
        self._on_disk: OrderedDict[str, Record] = OrderedDict()
        """Finished jobs with events on disk, as far as is known."""
        self._in_memory: OrderedDict[str, Record] = OrderedDict()
        """The other finished jobs."""
        self._forgotten: weakref.WeakSet[JobLog] = weakref.WeakSet()
        """The logs of deleted jobs that still have readers."""
        self._tenants: dict[str, dict[str, Record]] = {}
        self._keys: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._forgotten_keys = ForgottenKeys(idempotency_s, max_idempotency_keys, clock)

    def __len__(self) -> int:
        return len(self._records)

    def find(self, job_id: str) -> Record | None:
        """Return the job, or None if there is none or it has expired."""
        self.expire()
        return self._records.get(job_id)

    def get(self, job_id: str) -> Record:
        """Return the job. Raises `UnknownJob`."""
        record = self.find(job_id)
        if record is None:
            raise no_job(job_id)
        return record

    def repeated(self, tenant: str, idempotency: Idempotency) -> str | None:
        """Return the id of the first job with this key, if there is one.

        Raises `Conflict` if that was another request, `Gone` if the job was deleted.
        """
        self.expire()
        job_id, digest = self._keys.get((tenant, idempotency.key), (None, b""))
        if job_id is None:
            self._forgotten_keys.check(tenant, idempotency)
        elif digest != idempotency.digest:
            raise other_request(idempotency.key)
        return job_id

    def of_tenant(self, tenant: str, before: JobPlace | None = None) -> Iterator[Record]:
        """Return the tenant's jobs, newest first, those before a place."""
        self.expire()
        records = tuple(self._tenants.get(tenant, {}).values())
        end = len(records) if before is None else bisect.bisect_left(records, before, key=_place)
        return reversed(records[:end])

    def add(
        self,
        job: ResolvedJob,
        tenant: str,
        idempotency: Idempotency | None,
        weight: int,
        priority: int,
    ) -> Record:
        """Accept a job with this weight: put it into the queue and start its log.

        `priority` is that which counts now: within a session it is none before its other jobs.
        """
        self.expire()
        key = None if idempotency is None else idempotency.key
        kept = JobLog(spool=self._spool, ledger=self.ledger)
        # Later than every other, even if the clock was set back: lists are sorted by it.
        self._created_at = max(self._wall_clock(), math.nextafter(self._created_at, math.inf))
        record = Record(job.facts, job, tenant, key, self._clock(), self._created_at, kept, weight)
        self._records[job.job_id] = record
        self._tenants.setdefault(tenant, {})[job.job_id] = record
        self.inboxes[job.job_id] = Inbox()
        if idempotency is not None:
            self._keys[tenant, idempotency.key] = (job.job_id, idempotency.digest)
        self.queue.push(tenant, job.job_id, weight, priority, job.facts.lane)
        self.bell.set()
        waits = self.waits.of_job(tenant, job.job_id)
        self.tell_place(record, waits.position, int(waits.estimated_wait_s * 1000))
        return record

    def take(
        self, held: Container[str] = (), wanted: Callable[[Lane], bool] | None = None
    ) -> Record | None:
        """Take the next job of a tenant that is not in `held` out of the queue.

        With `wanted`, only of the lanes that are.
        """
        job_id = self.queue.pop(held, wanted)
        if job_id is None:
            return None
        record = self.running[job_id] = self._records[job_id]
        self._waiting_again.pop(job_id, None)
        self.running_of[record.tenant] += 1
        record.claimed_at = self._clock()
        record.started_at = self._wall_clock()
        return record

    def add_input(self, record: Record, size: int) -> None:
        """Count input that waits with its job."""
        record.weight += size
        self.queue.add_weight(record.tenant, record.job_id, size)

    def end_waiting(self, events: Sequence[tuple[str, bytes]]) -> None:
        while self.queue:
            self.end(self._records[self.queue.oldest or ""], events)

    def advance(
        self,
        record: Record,
        state: Literal["preparing", "compiling", "running"],
        policy: str | None,
    ) -> None:
        """Record the job's state, and its policy if it is given, and append the status event."""
        record.state = state
        if policy is not None:
            record.facts = replace(record.facts, policy=policy)
        self.write(record, [encode(Status(state, t=self._elapsed_ms(record)))])

    def write(self, record: Record, events: Sequence[tuple[str, bytes]]) -> None:
        record.log.append(events)
        if record.first_output_at is None and any(kind == "output" for kind, _ in events):
            record.first_output_at = self._wall_clock()

    def may_run_again(self, record: Record) -> bool:
        """Whether a job waits again when its worker is lost: input that was taken is not kept."""
        inbox = self.inboxes[record.job_id]
        may = record.attempt <= record.facts.retry
        return may and not (inbox.input_taken or inbox.cancelled)

    def wait_again(
        self, record: Record, reason: Literal["worker_lost", "shutting_down"], *, ran: bool
    ) -> None:
        """Put a running job back to the place that it had, and say so in its log."""
        self._leave_place(record)
        record.attempt += ran
        record.holder = record.started_at = None
        record.state = "queued"
        record.facts = replace(record.facts, policy=None)
        self._waiting_again[record.job_id] = record
        self.inboxes[record.job_id].begin_again()
        job = record.facts
        self.queue.push(
            *(record.tenant, job.job_id, record.weight, job.priority, job.lane),
            came_before=lambda other: self._records[other].created_at < record.created_at,
        )
        waits = self.waits.of_job(record.tenant, record.job_id)
        record.place, record.wait_ms = waits.position, int(waits.estimated_wait_s * 1000)
        status = Status(
            "queued",
            t=self._elapsed_ms(record),
            position=record.place,
            estimated_wait_ms=record.wait_ms,
            attempt=record.attempt if ran else None,
            reason=reason,
        )
        self.write(record, [encode(status)])

    def end(
        self,
        record: Record,
        events: Sequence[tuple[str, bytes]],
        files: Sequence[JobFile] = (),
    ) -> None:
        """End the job with these events, the last of them terminal, and the files that it left.

        Everything it was submitted with is dropped, except what its record shows.
        """
        job_id = record.job_id
        now = self._clock()
        if job_id in self.running:
            self._leave_place(record)
            self._pace.ran(now - record.claimed_at)
        else:
            self.queue.remove(record.tenant, job_id)
            self._waiting_again.pop(job_id, None)
        record.result = events[-1]
        record.state = "complete" if record.result[0] == "complete" else "error"
        record.finished_at = self._wall_clock()
        record.keep_until = now + self._retention_s
        self._finished[job_id] = self._unspilled[job_id] = self._in_memory[job_id] = record
        self.write(record, events)
        self.spilled(record)
        record.holder = None
        self.inboxes.pop(job_id).news.set()
        if record.job is not None:
            self.release(record.job)
        record.job = None
        record.files = tuple(files)
        for file in files:
            self.adopt(file)
        self.ended(record.view())
        try:
            self.hear(record.view())
        except Exception:
            told = about(job_id, record.tenant)
            log.exception("job %s: the listener for finished jobs failed", job_id, extra=told)
        kept = (record.facts, record.key, record.result, record.files)
        record.weight = RECORD_BYTES + sum(map(weigh, kept))
        self.kept_bytes += record.weight
        self.expire()

    def forget(self, record: Record) -> None:
        """Delete a finished job and its files.

        Readers of its files can continue, and those of its log as long as there is room.
        """
        job_id = record.job_id
        del self._records[job_id], self._finished[job_id]
        self.forgotten(job_id)
        self.kept_bytes -= record.weight
        self._unspilled.pop(job_id, None)
        self._on_disk.pop(job_id, None)
        self._in_memory.pop(job_id, None)
        siblings = self._tenants[record.tenant]
        del siblings[job_id]
        if not siblings:
            del self._tenants[record.tenant]
        if record.key is not None:
            _, digest = self._keys.pop((record.tenant, record.key))
            self._forgotten_keys.add(record.tenant, record.key, digest, record.accepted_at)
        for file in record.files:
            self.drop(file)
        record.log.retire()
        if record.log.size_bytes:
            self._forgotten.add(record.log)

    def expire(self) -> None:
        now = self._clock()
        while self._finished:
            oldest = next(iter(self._finished.values()))
            if oldest.keep_until > now:
                break
            self.forget(oldest)

    def drop_forgotten(self) -> bool:
        """Drop the events of the largest log that is only kept for its readers; False if none.

        The readers get a gap. A slow reader must not cost others their jobs, or hold their programs
        without end.
        """
        largest = max(self._forgotten, key=lambda kept: kept.size_bytes, default=None)
        if largest is None:
            return False
        self._forgotten.discard(largest)
        return largest.drop(largest.size_bytes) > 0

    def forget_oldest(self, *, on_disk: bool | None = None) -> bool:
        """Delete the job that ended first; False if none. The newest stays: its caller may wait.

        With `on_disk` only one that has events on disk, or only one that has none there.
        """
        newest = next(reversed(self._finished.values()), None)
        while self._on_disk and not next(iter(self._on_disk.values())).log.disk_bytes:
            job_id, record = self._on_disk.popitem(last=False)  # its events were dropped
            self._in_memory[job_id] = record
        oldest = {None: self._finished, True: self._on_disk, False: self._in_memory}[on_disk]
        for record in oldest.values():
            if record is not newest:
                self.forget(record)
                return True
        return False

    def spilled(self, record: Record) -> None:
        """Record that a log may have events on disk now."""
        if record.log.disk_bytes and record.job_id in self._finished:
            self._on_disk[record.job_id] = record
            self._in_memory.pop(record.job_id, None)

    def next_to_spill(self) -> Record | None:
        """Return the job whose events go to disk next: finished ones first, then large ones."""
        while self._unspilled:
            oldest = next(iter(self._unspilled.values()))
            if oldest.log.spillable_bytes:
                return oldest
            del self._unspilled[oldest.job_id]
        return max(
            (record for record in self._unfinished() if record.log.spillable_bytes),
            key=lambda record: record.log.spillable_bytes,
            default=None,
        )

    def kept(self) -> Iterator[Record]:
        """Yield every job that has had a worker."""
        return itertools.chain(self._unfinished(), self._finished.values())

    def _unfinished(self) -> Iterator[Record]:
        return itertools.chain(self.running.values(), self._waiting_again.values())

    def oldest_wait_s(self) -> float:
        oldest = self.queue.oldest
        return 0.0 if oldest is None else self._clock() - self._records[oldest].accepted_at

    def _elapsed_ms(self, record: Record) -> int:
        return int((self._clock() - record.accepted_at) * 1000)

    def tell_place(self, record: Record, place: int, wait_ms: int) -> None:
        """Append an event with its place in the queue, and how long it waits."""
        record.place = place
        record.wait_ms = wait_ms
        record.places_told += 1
        status = Status(
            "queued",
            t=self._elapsed_ms(record),
            position=place,
            estimated_wait_ms=wait_ms,
            job_id=record.job_id,
        )
        self.write(record, [encode(status)])

    def _leave_place(self, record: Record) -> None:
        del self.running[record.job_id]
        self.running_of[record.tenant] -= 1
        if not self.running_of[record.tenant]:
            del self.running_of[record.tenant]
        self.bell.set()  # its tenant may have another job that waits for this place


def _ages(running: Mapping[str, Record], clock: Callable[[], float]) -> list[float]:
    now = clock()
    return [now - record.claimed_at for record in running.values()]


def _place(record: Record) -> JobPlace:
    return record.created_at, record.job_id

"""The memory engine: jobs, logs and workers in one process and its memory.

It keeps the same promises as every other engine (`streamer.engine.interface`) and is the default.
Its jobs do not outlive the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from streamer.engine.blobs import JobFile
from streamer.engine.endings import SHUT_DOWN, WORKER_LOST, cancelled
from streamer.engine.interface import (
    SECRET_BYTES,
    Cancel,
    CancelResult,
    Eof,
    Idempotency,
    Input,
    JobPlace,
    JobState,
    JobView,
    Lease,
    Lost,
    Measure,
    OwnQueue,
    Resize,
    Signal,
    Stats,
    Submitted,
)
from streamer.engine.limits import (
    MOST_SHOWN,
    BlobLimits,
    QueueLimits,
    SessionLimits,
    WebhookLimits,
)
from streamer.engine.memory.admission import Admission
from streamer.engine.memory.blobs import DiskBlobs
from streamer.engine.memory.jobtable import JobTable, Record
from streamer.engine.memory.lease import MemoryLease
from streamer.engine.memory.places import Places
from streamer.engine.memory.rates import MemoryRates
from streamer.engine.memory.retention import Retention, RetentionLimits
from streamer.engine.memory.sessions import MemorySessions
from streamer.engine.memory.webhooks import MemoryWebhooks
from streamer.engine.refusals import size_of
from streamer.engine.throttle import Throttle
from streamer.engine.weight import webhook_weight, weight_of
from streamer.errors import Draining, unknown_project
from streamer.eventlog.joblog import JobLog
from streamer.eventlog.spool import Spool
from streamer.model.capabilities import Accepts, Capabilities
from streamer.model.events import encode
from streamer.model.job import JobFacts, Lane, ResolvedJob

__all__ = ["MemoryEngine"]

CLAIM_WAIT_S: Final = 1.0

PLACES_S: Final = 0.25
"""With a long queue and short jobs a place changes for many at each start."""


class MemoryEngine:
    """Broker and runner of one process; see `streamer.engine.interface.Engine`. Close it after use.

    `queue` limits waiting and running jobs, in total and for each tenant. A log is kept for
    `retention_s` seconds after the job's end, within the limits of `retention`
    (`streamer.engine.memory.retention`), on disk as far as `spool` has room. `blobs` limits
    projects and artifacts, `sessions` and `webhooks` those; without them there are none. A lease
    ends `lease_s` seconds after its last heartbeat.

    An idempotency key is remembered as long as its job is kept, and at least for `idempotency_s`;
    at most `max_idempotency_keys` keys of deleted jobs are remembered.

    Every `places_s` seconds at most waiting jobs are told their new places.
    """

    def __init__(
        self,
        *,
        queue: QueueLimits,
        retention_s: float,
        retention: RetentionLimits,
        spool: Spool | None = None,
        blobs: BlobLimits | None = None,
        sessions: SessionLimits | None = None,
        webhooks: WebhookLimits | None = None,
        lease_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        idempotency_s: float = 0.0,
        max_idempotency_keys: int = 100_000,
        places_s: float = PLACES_S,
    ) -> None:
        self._limits = queue
        self._lease_s = lease_s
        self._clock = clock
        self._spool = Spool(0) if spool is None else spool
        self._table = JobTable(
            places=queue.places,
            retention_s=retention_s,
            spool=self._spool,
            clock=clock,
            wall_clock=wall_clock,
            idempotency_s=idempotency_s,
            max_idempotency_keys=max_idempotency_keys,
        )
        self._table.waits.most_running = queue.running_of
        self._places = Throttle(Places(self._table).tell, places_s)
        self._admission = Admission(queue, self._table.queue, self._table.waits.wait_s)
        self._retention = Retention(self._table, retention)
        self.rates = MemoryRates(clock)
        self.blobs = DiskBlobs(blobs or BlobLimits(0), wall_clock=wall_clock)
        self.sessions = MemorySessions(
            sessions or SessionLimits(), lease_s=lease_s, clock=clock, wall_clock=wall_clock
        )
        self.webhooks = MemoryWebhooks(
            webhooks or WebhookLimits(), clock=clock, wall_clock=wall_clock
        )
        self._table.ended, self._table.forgotten = self.webhooks.ended, self.webhooks.forget
        # Without a reference to this object, which could not be told of when it is dropped then.
        self._table.release = partial(_release, self.blobs, self.sessions)
        self._table.adopt = partial(_adopt, self.blobs)
        self._table.drop = partial(_drop, self.blobs)
        self.sessions.hold, self.sessions.release = self.blobs.hold, self.blobs.release
        self.sessions.drop = self.blobs.drop
        self.sessions.end_job = partial(_cancel, self._table)
        self.sessions.on_place = self._table.bell.set
        self._workers: dict[str, Capabilities] = {}
        self._secrets: dict[str, bytes] = {}
        self._draining = False
        self._closed = False

    def __del__(self) -> None:
        # Without jobs there is nothing to close: an application may be created and never run.
        if not getattr(self, "_closed", True) and self._table.inboxes:
            warnings.warn(
                f"unclosed {self!r}: the readers of its unfinished jobs wait for ever",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    @property
    def alone(self) -> bool:
        return True

    def listen(self, hear: Callable[[JobView], None]) -> None:
        self._table.hear = hear

    async def start(self, folder: Path) -> None:
        """Use `folder` for blobs, and for events that do not fit into memory."""
        self._spool.use_folder(folder)
        self.blobs.use_folder(folder)

    async def submit(
        self,
        job: ResolvedJob,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Submitted:
        first = None if idempotency is None else self._table.repeated(tenant, idempotency)
        if first is None and self._table.find(job.job_id) is not None:
            first = job.job_id
        if first is not None:
            return Submitted(first, created=False)
        if self._draining:
            raise Draining("the service is shutting down and takes no new jobs")
        weight = weight_of(job, idempotency)
        self._admission.check(tenant, weight)
        self.sessions.check_job(job.session_id)
        if job.webhook is not None:
            self.webhooks.check(tenant, webhook_weight(job))
        if job.project is not None and not self.blobs.hold(job.project.blob_id):
            raise unknown_project(job.project.blob_id)
        priority = job.priority
        if job.session_id is not None:
            priority = self.sessions.add_job(job.session_id, job.job_id, priority)
        if job.webhook is not None:
            self.webhooks.add(job.job_id, tenant, job.webhook, webhook_weight(job))
        record = self._table.add(job, tenant, idempotency, weight, priority)
        await self._retention.enforce(record)
        return Submitted(job.job_id, created=True)

    async def repeated(self, idempotency: Idempotency, *, tenant: str = "") -> str | None:
        return self._table.repeated(tenant, idempotency)

    def follow(self, job_id: str, after: int = 0) -> AbstractAsyncContextManager[JobLog]:
        """Lend the job's log itself, which has every event at once. Raises `UnknownJob`."""
        # Not a generator, which would be closed beside those that use it when the loop ends.
        return nullcontext(self._table.get(job_id).log)

    @asynccontextmanager
    async def usage(self, job_id: str, hear: Callable[[bytes], None]) -> AsyncIterator[None]:
        record = self._table.get(job_id)
        if record.listeners is None:
            record.listeners = set()
        record.listeners.add(hear)
        try:
            yield
        finally:
            record.listeners.discard(hear)

    async def summary(self, job_id: str) -> JobView | None:
        record = self._table.find(job_id)
        if record is None:
            return None
        waits = self._table.waits.of_job(record.tenant, job_id) if record.waiting else None
        return replace(record.view(waits), webhook=self.webhooks.view(job_id))

    async def jobs(
        self,
        *,
        tenant: str,
        state: JobState | None = None,
        limit: int = 50,
        before: JobPlace | None = None,
    ) -> Sequence[JobView]:
        wanted = (
            record
            for record in self._table.of_tenant(tenant, before)
            if state is None or record.state == state
        )
        return tuple(record.view() for record in itertools.islice(wanted, limit))

    async def cancel(self, job_id: str) -> CancelResult:
        record = self._table.find(job_id)
        if record is None:
            return "unknown"
        if record.over:
            return "done"
        waited = record.waiting
        _cancel(self._table, job_id)
        if waited:
            self._places.request()
            await self._retention.enforce(record)
        return "cancelled" if waited else "requested"

    async def send(
        self,
        job_id: str,
        control: Input | Eof | Signal | Resize | Measure,
        number: int | None = None,
    ) -> Literal["accepted", "closed"]:
        """Send something to the job's program; input only to an interactive one.

        Raises `UnknownJob`, `Busy` if too much is pending, `TooLarge`, `Conflict`.
        """
        record = self._table.get(job_id)
        if number is not None and number <= record.sent:
            return "accepted"
        new = record.received.unseen(control)
        if new is None:
            return "accepted"
        control = new
        if record.over or not _takes(record.facts, control):
            return "closed"
        inbox = self._table.inboxes[job_id]
        size = size_of(control)
        if record.waiting:
            self._admission.check_weight(record.tenant, size)
        if not inbox.put(control):
            return "closed"
        record.received.count(control)
        if number is not None:
            record.sent = number
        if record.waiting:
            self._table.add_input(record, size)
        return "accepted"

    async def purge(self, job_id: str) -> bool:
        record = self._table.get(job_id)
        if not record.over:
            return False
        self._table.forget(record)
        return True

    async def files(self, job_id: str) -> Sequence[JobFile]:
        return self._table.get(job_id).files

    async def capabilities(self) -> Sequence[Capabilities]:
        """Return what the workers have published; they live as long as this process."""
        return tuple(self._workers.values())

    async def secret(self, name: str) -> bytes:
        return self._secrets.setdefault(name, secrets.token_bytes(SECRET_BYTES))

    async def stats(self) -> Stats:
        self._table.expire()
        self.sessions.expire()
        return Stats(
            waiting=len(self._table.queue),
            running=len(self._table.running),
            oldest_wait_s=self._table.oldest_wait_s(),
            logs=len(self._table),
            log_bytes=self._table.ledger.memory,
            disk_bytes=self._table.ledger.disk,
            waiting_bytes=self._table.queue.weight,
            record_bytes=self._table.kept_bytes,
            estimated_wait_s=self._table.waits.wait_s(len(self._table.queue) + 1),
            blob_bytes=await self.blobs.used_bytes(),
            sessions=len(self.sessions),
            webhooks=len(self.webhooks),
        )

    async def own_queue(self, tenant: str) -> OwnQueue:
        return OwnQueue(
            running=self._table.running_of[tenant],
            waiting=self._table.queue.count(tenant),
            most_running=self._table.waits.most_running(tenant),
            estimated_wait_s=self._table.waits.of_new_s(tenant),
            jobs=self._table.waits.first_of(tenant, MOST_SHOWN),
        )

    async def ready(self) -> bool:
        """Tell whether jobs are accepted; a full queue counts as ready."""
        return not self._draining

    async def drain(self) -> None:
        self._draining = True
        self.sessions.drain()
        self._table.end_waiting([encode(SHUT_DOWN)])

    async def close(self) -> None:
        """End every job, so that every reader gets a terminal event."""
        await self.drain()
        for record in tuple(self._table.running.values()):
            self._table.end(record, [encode(SHUT_DOWN)])
        self.sessions.close()
        self._closed = True
        self._places.close()
        self._table.bell.set()
        await self._retention.close()
        self._spool.close()
        await self.blobs.close()

    @property
    def heartbeat_s(self) -> float:
        return self._lease_s / 3

    async def publish(self, worker: str, capabilities: Capabilities | None) -> None:
        if capabilities is None:
            self._workers.pop(worker, None)
        else:
            self._workers[worker] = capabilities

    async def claim(
        self, worker: str, free: int, accepts: Accepts | None = None
    ) -> Sequence[Lease]:
        self._table.bell.clear()
        leases = self._take(worker, free, accepts)
        if not leases and free > 0 and not self._closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_WAIT_S):
                    await self._table.bell.wait()
            leases = self._take(worker, free, accepts)
        if leases:
            self._places.request()
        return leases

    def _take(self, worker: str, free: int, accepts: Accepts | None) -> list[Lease]:
        leases: list[Lease] = []
        sessions = self.sessions

        def wanted(lane: Lane) -> bool:
            if lane.session_id is not None:
                return sessions.may_run(lane.session_id, worker)
            return accepts is None or accepts.takes(lane)

        most_of = self._limits.running_of
        while len(leases) < free:
            running = self._table.running_of.items()
            held = {t for t, n in running if (most := most_of(t)) is not None and n >= most}
            every = accepts is None and not sessions.waiting_jobs  # as good as always: it is fast
            record = self._table.take(held, None if every else wanted)
            if record is None:
                break
            if record.facts.session_id is not None:
                sessions.job_began(record.facts.session_id, record.job_id)
            leases.append(self._lease(record))
        return leases

    async def heartbeat(self, leases: Sequence[Lease]) -> Sequence[tuple[Lease, Cancel | Lost]]:
        until = self._clock() + self._lease_s
        told: list[tuple[Lease, Cancel | Lost]] = []
        for lease in leases:
            job_id = lease.job.job_id
            record = self._table.running.get(job_id)
            if record is None or record.holder is not lease:
                told.append((lease, Lost()))
                continue
            record.lease_until = until
            if self._table.inboxes[job_id].cancelled:
                told.append((lease, Cancel()))
        return told

    async def reap(self) -> int:
        self._table.expire()
        self.blobs.expire()
        self.sessions.expire()
        now = self._clock()
        lost = [record for record in self._table.running.values() if record.lease_until <= now]
        for record in lost:
            if self._table.may_run_again(record) and not self._draining:
                self._table.wait_again(record, "worker_lost", ran=True)
            else:
                self._table.end(record, [encode(WORKER_LOST)])
        self._places.request()  # of a queue that stands still the estimates change
        for record in lost:
            await self._retention.enforce(record)  # waits: other jobs may end meanwhile
        return len(lost)

    def _lease(self, record: Record) -> Lease:
        inbox = self._table.inboxes[record.job_id]
        lease = MemoryLease(record, inbox, self._table, self._retention, lambda: self._draining)
        record.holder = lease
        record.lease_until = self._clock() + self._lease_s
        return lease


def _takes(job: JobFacts, sent: Input | Eof | Signal | Resize | Measure) -> bool:
    if isinstance(sent, Resize):
        return job.terminal is not None
    return job.interactive or isinstance(sent, Signal | Measure)


def _release(blobs: DiskBlobs, sessions: MemorySessions, job: ResolvedJob) -> None:
    if job.project is not None:
        blobs.release(job.project.blob_id)
    if job.session_id is not None:
        sessions.job_ended(job.session_id, job.job_id)


def _cancel(table: JobTable, job_id: str) -> None:
    """End a job that waits, or ask the worker of one that runs."""
    record = table.find(job_id)
    if record is not None and record.waiting:
        table.end(record, [encode(cancelled(record.facts, record.attempt))])
    elif record is not None and not record.over:
        table.inboxes[job_id].cancel()


def _adopt(blobs: DiskBlobs, file: JobFile) -> None:
    blobs.adopt(file.blob.id)


def _drop(blobs: DiskBlobs, file: JobFile) -> None:
    blobs.drop(file.blob.id)

"""The API side of a node."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Final, Literal

from streamer.engine.blobs import JobFile
from streamer.engine.endings import cancelled
from streamer.engine.interface import (
    SECRET_BYTES,
    CancelResult,
    Eof,
    Idempotency,
    Input,
    JobPlace,
    JobState,
    JobView,
    Measure,
    OwnQueue,
    Resize,
    Signal,
    Stats,
    Submitted,
    WaitingJob,
)
from streamer.engine.limits import MOST_SHOWN
from streamer.engine.redis.link import Word
from streamer.engine.redis.node import RedisNode
from streamer.engine.redis.sessions import check_living
from streamer.engine.redis.webhooks import webhook_view, webhook_words
from streamer.engine.redis.wire import (
    CAPABILITIES,
    FILES,
    encoded,
    key_name,
    tenant_hash,
    tenant_name,
    view_of,
)
from streamer.engine.refusals import (
    input_full,
    input_misplaced,
    input_too_large,
    key_gone,
    no_job,
    other_request,
    size_of,
)
from streamer.engine.weight import RECORD_BYTES, webhook_weight, weigh, weight_of
from streamer.errors import Draining, EngineUnavailable, unknown_project
from streamer.eventlog.joblog import JobLog
from streamer.model.capabilities import Capabilities
from streamer.model.events import encode
from streamer.model.job import ResolvedJob

__all__ = ["RedisBroker"]

CAPABILITIES_S: Final = 1.0
"""How long a worker that is gone may still be counted."""

STREAM_BYTES: Final = 3584
"""What a finished job takes in the server beyond what it takes in a process, since the server gives
a stream 4 KiB at once. 3.5 kB measured; tests/engine/test_redis.py measures again."""


class RedisBroker(RedisNode):
    """See `streamer.engine.interface.Broker`."""

    alone = False

    async def submit(
        self,
        job: ResolvedJob,
        *,
        tenant: str = "",
        idempotency: Idempotency | None = None,
    ) -> Submitted:
        facts, weight = job.facts, weight_of(job, idempotency)
        key = None if idempotency is None else idempotency.key
        sent = {
            "id": job.job_id,
            "tenant_hash": tenant_hash(tenant),
            "key": "" if idempotency is None else key_name(tenant, idempotency),
            "weight": weight,
            "record": RECORD_BYTES + STREAM_BYTES + weigh((facts, key)),
            "backend": job.backend,
            "language": job.language or "",
            "environment": job.environment or "",
            "session": job.session_id or "",
            "priority": job.priority,
            "blob": "" if job.project is None else job.project.blob_id,
            "interactive": int(job.interactive),
            "terminal": int(job.terminal is not None),
            "retry": job.retry,
            "draining": self._draining,
        }
        hook_size = 0
        if job.webhook is not None:
            hook_size = webhook_weight(job)
            sent["webhook"] = webhook_words(job.webhook, tenant_hash(tenant), hook_size)
            sent["webhook_size"] = hook_size
        words: tuple[Word, ...] = (
            encoded(sent),
            encoded(facts),
            encoded(job),
            encode(cancelled(facts))[1],
            b"" if idempotency is None else idempotency.digest,
            tenant_name(tenant),
        )
        if self._closed:
            raise Draining("the service is shutting down and takes no new jobs")
        state, *answer = await self._scripts.call("submit", *words, marked=True, tenant=tenant)
        match state:
            case b"created":
                self._bell.set()
                return Submitted(job.job_id, created=True)
            case b"job":
                return Submitted(answer[0].decode(), created=False)
            case b"draining":
                raise Draining("the service is shutting down and takes no new jobs")
            case b"no_project":
                assert job.project is not None
                raise unknown_project(job.project.blob_id)
            case b"full":
                self._limits.check_queue(answer, weight, tenant, job=True)
            case b"hooks_full":
                self._limits.check_webhooks(answer, hook_size)
        self._check_key(state, idempotency)
        check_living([state, *answer], job.session_id or "")
        raise AssertionError(state)

    async def repeated(self, idempotency: Idempotency, *, tenant: str = "") -> str | None:
        state, *answer = await self._scripts.call(
            "repeated", key_name(tenant, idempotency), idempotency.digest
        )
        self._check_key(state, idempotency)
        return answer[0].decode() if state == b"job" else None

    def _check_key(self, state: bytes, idempotency: Idempotency | None) -> None:
        if idempotency is not None and state == b"conflict":
            raise other_request(idempotency.key)
        if idempotency is not None and state == b"gone":
            raise key_gone(idempotency.key)

    def follow(self, job_id: str, after: int = 0) -> AbstractAsyncContextManager[JobLog]:
        return self._mirrors.follow(job_id, after)

    @asynccontextmanager
    async def usage(self, job_id: str, hear: Callable[[bytes], None]) -> AsyncIterator[None]:
        if not await self._scripts.call("exists", job_id):
            raise no_job(job_id)
        channel, listeners = f"usage:{job_id}", self._listeners.setdefault(job_id, [])
        listeners.append(hear)
        try:
            await self._listener.subscribe(channel, lambda data: _tell(listeners, data))
            yield
        finally:
            listeners.remove(hear)
            if not listeners and self._listeners.get(job_id) is listeners:
                del self._listeners[job_id]
                await self._listener.unsubscribe(channel)

    async def summary(self, job_id: str) -> JobView | None:
        found = await self._scripts.call("summary", job_id)
        if not found:
            return None
        fields, waits, hook = found
        webhook = None if hook is None else webhook_view(hook)
        return replace(view_of(fields, *waits), webhook=webhook)

    async def jobs(
        self,
        *,
        tenant: str,
        state: JobState | None = None,
        limit: int = 50,
        before: JobPlace | None = None,
    ) -> Sequence[JobView]:
        views: list[JobView] = []
        place: Word = "+inf" if before is None else f"({before[0]!r}"
        while place and len(views) < limit:
            page, place = await self._scripts.call(
                "jobs", tenant_hash(tenant), place, state or "", limit - len(views)
            )
            views += map(view_of, page)
        return tuple(views)

    async def cancel(self, job_id: str) -> CancelResult:
        tell = self._places.due()
        result: CancelResult = (
            await self._scripts.call("cancel", job_id, secrets.token_hex(8), int(tell))
        ).decode()
        self._told_places(told=tell, changed=result == "cancelled")
        return result

    async def send(
        self,
        job_id: str,
        control: Input | Eof | Signal | Resize | Measure,
        number: int | None = None,
    ) -> Literal["accepted", "closed"]:
        kind, data, at = _sent(control)
        state, *answer = await self._scripts.call(
            "send",
            job_id,
            kind,
            data,
            "" if number is None else number,
            "" if at is None else at,
            secrets.token_hex(4),
        )
        match state:
            case b"accepted":
                return "accepted"
            case b"closed":
                return "closed"
            case b"unknown":
                raise no_job(job_id)
            case b"conflict":
                raise input_misplaced(answer[0].decode(), int(answer[1]), int(answer[2]))
            case b"too_large":
                raise input_too_large(int(answer[0]))
            case b"busy":
                raise input_full()
        view = await self.summary(job_id)
        tenant = "" if view is None else view.tenant
        self._limits.check_queue(answer, size_of(control), tenant, job=False)
        raise AssertionError(state)

    async def purge(self, job_id: str) -> bool:
        state = await self._scripts.call("purge", job_id, marked=True)
        if state == b"unknown":
            raise no_job(job_id)
        return bool(state == b"purged")

    async def files(self, job_id: str) -> Sequence[JobFile]:
        state, *files = await self._scripts.call("files", job_id)
        if state == b"unknown":
            raise no_job(job_id)
        return FILES.decode(files[0]) if files and files[0] else ()

    async def capabilities(self) -> Sequence[Capabilities]:
        """Return what was asked last, unless it has changed: every submission wants it."""
        now = asyncio.get_running_loop().time()
        if self._workers is None or now >= self._workers_until:
            version = self._workers_version
            told = await self._scripts.call("capabilities")
            workers = tuple(map(CAPABILITIES.decode, told))
            if version != self._workers_version:
                return workers  # something was published meanwhile
            self._workers, self._workers_until = workers, now + CAPABILITIES_S
        return self._workers

    async def secret(self, name: str) -> bytes:
        made: bytes = await self._scripts.call("secret", name, secrets.token_bytes(SECRET_BYTES))
        return made

    async def stats(self) -> Stats:
        (
            waiting,
            running,
            oldest,
            logs,
            log_bytes,
            waiting_bytes,
            record_bytes,
            estimated,
            blob_bytes,
            sessions,
            webhooks,
        ) = await self._scripts.call("stats")
        return Stats(
            waiting=waiting,
            running=running,
            oldest_wait_s=float(oldest),
            logs=logs,
            log_bytes=log_bytes,
            waiting_bytes=waiting_bytes,
            record_bytes=record_bytes,
            estimated_wait_s=float(estimated),
            blob_bytes=blob_bytes,
            sessions=sessions,
            webhooks=webhooks,
        )

    async def own_queue(self, tenant: str) -> OwnQueue:
        running, waiting, most, wait_s, jobs = await self._scripts.call(
            "own_queue", tenant_hash(tenant), MOST_SHOWN, tenant=tenant
        )
        return OwnQueue(
            running,
            waiting,
            most,
            float(wait_s),
            [WaitingJob(job_id.decode(), place, float(wait)) for job_id, place, wait in jobs],
        )

    async def ready(self) -> bool:
        """Tell whether the server answers and takes writes, and jobs are accepted."""
        if self._draining or not self._link.up.is_set():
            return False
        with contextlib.suppress(EngineUnavailable):
            await self._scripts.ask("exists", "")
            return True
        return False


def _tell(listeners: Sequence[Callable[[bytes], None]], data: bytes) -> None:
    for hear in tuple(listeners):
        hear(data)


def _sent(control: Input | Eof | Signal | Resize | Measure) -> tuple[str, bytes, int | None]:
    match control:
        case Input(data, at):
            return "input", data, at
        case Eof(at):
            return "eof", b"", at
        case Signal(number):
            return "signal", b"%d" % number, None
        case Resize(cols, rows):
            return "resize", b"%d,%d" % (cols, rows), None
        case Measure():
            return "measure", b"", None

"""Write the events of a job to its lease; the engine may fail or lose its connection."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar

from streamer.bounded import within
from streamer.engine.blobs import JobFile
from streamer.engine.interface import AppendNow, FinishNow, Lease, LeaseLost
from streamer.model.events import JobEvent, encode
from streamer.model.logfields import about
from streamer.worker.outbox import Batch, Outbox

__all__ = ["ENGINE_TIMEOUT_S", "Writer", "finish", "repeated"]

log: Final = logging.getLogger(__name__)

ENGINE_TIMEOUT_S: Final = 30.0
"""How long to wait for one answer of the engine."""

FINISH_PAUSES_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0)
"""Pauses between the attempts to end a job. After the last the engine ends it (``worker_lost``)."""

PAUSES_S: Final = (0.01, 0.05, 0.2, 0.5)
"""Pauses before the repetitions of other calls; the last one is used again and again."""

T = TypeVar("T")


class Writer:
    """Writes the events before the terminal one. Each wait for the engine has a time limit.

    Until then a call that lost its connection is repeated.
    """

    def __init__(self, lease: Lease, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called when events could not be written: `flush` raises why."""
        self._lease = lease
        append_now: AppendNow | None = _of_its_own(lease, "append_now")
        self.program_ended = asyncio.Event()
        """Set while no program runs that would have to be slowed down."""
        append = partial(_append, lease, self.program_ended)
        self._outbox = Outbox(append, on_failure, append_now)

    def elapsed_ms(self) -> int:
        """Return how long ago the job was accepted."""
        return int((time.monotonic() - self._lease.accepted_at) * 1000)

    async def state(
        self, state: Literal["preparing", "compiling", "running"], policy: str | None = None
    ) -> None:
        """Record the job's state, and the digest of its policy."""
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            await repeated(lambda: self._lease.state(state, policy))

    def write_now(self, events: Sequence[JobEvent]) -> bool:
        """Hand over events if nothing has to be waited for; otherwise do nothing."""
        return self._outbox.put_now([encode(event) for event in events])

    async def write(self, events: Sequence[JobEvent]) -> None:
        """Hand over events, and return when more can be taken."""
        await self._outbox.put([encode(event) for event in events])

    async def flush(self) -> None:
        """Wait until the log has all of them."""
        await self._outbox.flush()

    async def close(self) -> None:
        """Give up what is not written yet."""
        await self._outbox.close()


async def _append(lease: Lease, program_ended: asyncio.Event, batch: Batch) -> None:
    async with asyncio.timeout(ENGINE_TIMEOUT_S):
        await repeated(lambda: lease.append(batch))
    if lease.full and not program_ended.is_set():
        # Little is read meanwhile, so the program's writes block, at most until its wall
        # time limit; a dead program has little output left.
        await _first_of(lease.room(), program_ended.wait())


async def finish(
    lease: Lease, events: Sequence[JobEvent], files: Sequence[JobFile] = ()
) -> bool | None:
    """Write the last events of a job and end it; False if the lease was lost.

    None if there was no answer: the engine may have ended the job all the same, with the files.
    """
    job = lease.job
    told = about(job.job_id, job.tenant)
    encoded = [encode(event) for event in events]
    finish_now: FinishNow = _of_its_own(lease, "finish_now") or _not_now
    if files:
        finish_now = _not_now
    for pause_s in (*FINISH_PAUSES_S, None):
        try:
            if (ended := finish_now(encoded)) is not None:
                return ended
            ending = lease.finish(encoded, files) if files else lease.finish(encoded)
            return await within(ENGINE_TIMEOUT_S, ending)
        except LeaseLost:
            return False
        except Exception:
            log.exception("job %s: the engine did not accept its end", job.job_id, extra=told)
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    log.error("job %s: its end could not be written", job.job_id, extra=told)
    return None


def _not_now(_: Sequence[tuple[str, bytes]]) -> None:
    return None


def _of_its_own(lease: Lease, name: str) -> Any:
    """Return a method that a lease may have, or None.

    Of its own class: a lease that wraps another one, and passes on what it does not know, would
    give away the method of the other, past its own.
    """
    return getattr(lease, name, None) if hasattr(type(lease), name) else None


async def repeated(call: Callable[[], Awaitable[T]], *, tries: int | None = None) -> T:
    """Return the engine's answer to a call, which is repeated when its connection was lost.

    The caller sets a time limit, or the number of `tries`. It is for calls that the engine lets be
    repeated (`streamer.engine.interface`).
    """
    for number in itertools.count(1):
        try:
            return await call()
        except ConnectionError as error:
            if number == tries:
                raise
            log.warning("the connection to the engine was lost: %s", error)
        await asyncio.sleep(PAUSES_S[min(number, len(PAUSES_S)) - 1])
    raise AssertionError("the numbers do not end")


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of several coroutines and cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

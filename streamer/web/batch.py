"""The handler that submits many jobs at once: each is accepted or refused as if it came alone."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from streamer.engine.interface import Idempotency, JobState
from streamer.errors import CapacityError, StreamerError
from streamer.jobs.jobs import Jobs
from streamer.web import answers, parameters, wire
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.operations import jobs as operations
from streamer.web.problems import problem, retry_after, tell
from streamer.web.rates import RequestRates

__all__ = ["BatchHandlers"]

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchHandlers:
    """`links` returns the links of a job by its id."""

    jobs: Jobs
    access: Access
    rates: RequestRates
    bodies: Bodies
    links: Callable[[web.Request, str], answers.JobLinks]

    def routes(self) -> list[web.RouteDef]:
        return [operations.EXECUTE_BATCH.route(self.execute)]

    async def execute(self, request: web.Request) -> web.Response:
        """Accept or refuse one job after another; tell of each what came of it."""
        tenant = self.access.require(request, "submit")
        key = parameters.idempotency_key(request)
        told: list[answers.Accepted | answers.Problem] = []
        pauses: list[int] = []  # not the errors, which would keep all that is known of their jobs
        async with self.bodies.read(request, tenant) as body:
            for index, part in enumerate(wire.parts_of(body)):
                # Together they may be as large as one: that is how long nobody else has a turn.
                await asyncio.sleep(0)
                try:
                    told.append(await self._accepted(request, tenant, part, _key_of(key, index)))
                except StreamerError as error:
                    tell(request, error)
                    told.append(_at(index, problem(error)))
                    if isinstance(error, CapacityError):
                        pauses.append(int(retry_after(error)))
                except Exception:
                    log.exception("submission %d of a batch failed", index)
                    told.append(problem(StreamerError("internal")))
        return json_answer(told, headers={"Retry-After": str(max(pauses))} if pauses else None)

    async def _accepted(
        self, request: web.Request, tenant: str, part: bytes, key: str | None
    ) -> answers.Accepted:
        await self.rates.take(request, tenant)
        idempotency = None if key is None else Idempotency(key, hashlib.sha256(part).digest())
        spec = wire.parse_job(part)  # checks the types
        job = await self.jobs.accept(
            spec,
            tenant=tenant,
            idempotency=idempotency,
            traceparent=parameters.traceparent(request),
        )
        status: JobState = (await job.view()).state if job.replayed else "queued"
        return answers.Accepted(job.id, status, self.links(request, job.id))


def _key_of(key: str | None, index: int) -> str | None:
    """Return the key of one submission: one that no header can have, since it has a newline."""
    return None if key is None else f"{key}\n{index}"


def _at(index: int, document: answers.Problem) -> answers.Problem:
    """Return a problem whose place is one in the whole array."""
    path = document.path
    if not isinstance(path, str) or not path.startswith("$"):
        return document
    return replace(document, path=f"$[{index}]{path[1:]}")

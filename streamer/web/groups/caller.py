"""One request for a route of a group: what its handler may do, by the rules of our own routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from streamer.engine.interface import JobView
from streamer.errors import InvalidRequest
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.jobs.languages import Language
from streamer.model.job import JobSpec
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access, Action
from streamer.web.groups.places import Places
from streamer.web.rates import RequestRates

__all__ = ["Caller", "Desk"]

T = TypeVar("T")

LOOK_S: Final = 0.5
"""How often it is looked whether the caller is still there, where its handler is not cancelled."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What all requests for groups share."""

    jobs: Jobs
    access: Access
    rates: RequestRates
    bodies: Bodies
    places: Places
    ask_versions: Callable[[], None]
    """Lets the worker of this process, if any, begin to ask the languages for their versions."""


class Caller:
    """A request that may do the action of its route.

    `request` is aiohttp's, `tenant` who sent it, `service` where jobs are submitted and found. What
    a handler raises of `streamer.errors` is answered in the words of its group.
    """

    def __init__(self, desk: Desk, request: web.Request, tenant: str) -> None:
        self._desk = desk
        self.request = request
        self.tenant = tenant
        self.service = desk.jobs

    @asynccontextmanager
    async def body(self) -> AsyncIterator[bytearray]:
        """Read the body, within the bounds for all bodies; it counts until this is left.

        Raises `TooLarge`, `RateLimited`, `InvalidRequest`.
        """
        async with self._desk.bodies.read(self.request, self.tenant) as body:
            yield body

    @asynccontextmanager
    async def document(self, kind: type[T]) -> AsyncIterator[T]:
        """Read the body as JSON of a type that msgspec knows; it counts as `body` does.

        Raises `InvalidRequest` with the code ``invalid_json`` for what is none, or not of the type.
        """
        async with self.body() as body:
            try:
                found = msgspec.json.decode(body, type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                said = f"the body is not as expected: {error}"
                raise InvalidRequest(said, code="invalid_json") from None
            except RecursionError:
                deep = "the body is nested too deeply"
                raise InvalidRequest(deep, code="invalid_json") from None
            yield found

    async def submit(self, spec: JobSpec) -> Job:
        """Count the request for the rates, and submit a job of the caller's.

        Raises what `Jobs.submit` does, and `RateLimited`.
        """
        await self._desk.rates.take(self.request, self.tenant)
        return await self.service.submit(spec, tenant=self.tenant)

    async def job(self, job_id: str, action: Action = "read") -> tuple[Job, JobView]:
        """Return a job that the caller may do `action` with, and a snapshot of it.

        Raises `UnknownJob` also for another tenant's.
        """
        job = self.service.job(job_id)
        return job, await self._desk.access.job(self.request, action, job)

    async def languages(self) -> Sequence[Language]:
        """Return the configured languages, and which of them can be run now."""
        self._desk.ask_versions()
        return await self.service.languages()

    def place(self) -> AbstractContextManager[None]:
        """Take one of the places for requests that wait for a job. Raises `RateLimited`."""
        return self._desk.places.taken(self.tenant)

    async def run(
        self, spec: JobSpec, read: Callable[[Job], Awaitable[T]], *, keep: bool = False
    ) -> T:
        """Submit a job, and return what `read` makes of it, which may wait for its end.

        If the caller leaves meanwhile the job is cancelled, unless it is to be kept: then it can
        be asked for by its id later. Raises what `place` and `submit` do.
        """
        with self.place():
            job = await self.submit(spec)
            return await self.attend(job, read(job), keep=keep)

    async def attend(self, job: Job, waiting: Awaitable[T], *, keep: bool = False) -> T:
        """Wait for something of a job, as long as the caller is there; else as `run` does."""
        task = asyncio.ensure_future(waiting)
        try:
            while not task.done() and not self._left:
                await asyncio.wait((task,), timeout=LOOK_S)
        finally:
            if not task.done():
                if not keep:
                    # Its handler ends with the connection; the job must still be told.
                    await asyncio.shield(job.cancel())
                task.cancel()
        return await task  # raises CancelledError if it was

    @property
    def _left(self) -> bool:
        return self.request.transport is None or self.request.transport.is_closing()

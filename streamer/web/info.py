"""The handlers about the service: what it can run, how busy and how healthy it is.

What it can run is what its workers have published (`streamer.model.capabilities`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Protocol

import msgspec
from aiohttp import web

from streamer.engine.measures import JobMeasures
from streamer.errors import NotFound
from streamer.jobs.jobs import Jobs
from streamer.model.capabilities import (
    NOTHING,
    Ahead,
    Capabilities,
    EnvironmentFacts,
    public_reason,
)
from streamer.model.environment import NOT_BUILT
from streamer.model.job import Limits
from streamer.model.names import camel
from streamer.model.runtime import public_tool_reason
from streamer.sse.sessionmap import SessionMap
from streamer.web import answers
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.metrics import CONTENT_TYPE, exposition
from streamer.web.operations import service as operations
from streamer.web.siblings import SIBLINGS, merged

__all__ = ["InfoHandlers", "OwnWorker"]

log: Final = logging.getLogger(__name__)

NO_WORKER: Final = "no worker that runs it is there at the moment"

SAY_AGAIN_S: Final = 60.0
ENGINE_TIMEOUT_S: Final = 5.0
"""How long a readiness check waits for the engine."""

READY: Final = "yes"


class OwnWorker(Protocol):
    """The worker of this process, if there is one."""

    def own(self) -> Capabilities | None:
        """Return what it can run, or None if there is none."""

    def ask_versions(self) -> None:
        """Let it begin to ask the tools of the languages for their versions."""

    async def try_sandboxes(self) -> None:
        """Let it test the backends that were not tested yet."""

    def ahead(self) -> Ahead:
        """Return what it has started before its job."""


@dataclass
class InfoHandlers:
    jobs: Jobs
    sessions: SessionMap
    access: Access
    bodies: Bodies
    measures: JobMeasures
    worker: OwnWorker
    webhooks: Mapping[str, int]
    """What became of this process's attempts to deliver webhooks."""
    _said_at: float = -SAY_AGAIN_S
    """When the log was told last that the engine does not answer."""

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.RUNTIMES.route(self.list_runtimes),
            operations.SANDBOXES.route(self.list_sandboxes),
            operations.QUEUE.route(self.show_queue),
            *self.process_routes(),
        ]

    def process_routes(self) -> list[web.RouteDef]:
        """Return those about this process, which each process has."""
        return [
            operations.HEALTH.route(self.health),
            operations.READINESS.route(self.readiness),
            operations.METRICS.route(self.metrics),
        ]

    async def list_runtimes(self, request: web.Request) -> web.Response:
        self.access.require(request, "list")
        self.worker.ask_versions()
        workers = await self.jobs.capabilities()
        known = {runtime.name: runtime for runtime in self.jobs.runtimes.values()}
        limits = self.jobs.config.limits
        listed = []
        for name, runtime in sorted(known.items()):
            available = name in workers.languages
            reason = None if available else self._why_not(name, workers)
            listed.append(
                answers.Runtime(
                    name=name,
                    title=runtime.title or name,
                    version=workers.versions.get(name),
                    aliases=runtime.aliases,
                    entry=runtime.entry,
                    compiled=bool(runtime.compile),
                    available=available,
                    reason=reason,
                    environments=[
                        _environment(environment, workers.environments.get(environment))
                        for environment in self.jobs.environments_of(name)
                    ],
                    limits=_camel(runtime.raised(limits.default, limits.max)),
                )
            )
        return json_answer(answers.Runtimes(listed, _camel(limits.max)))

    async def list_sandboxes(self, request: web.Request) -> web.Response:
        self.access.require(request, "list")
        await self.worker.try_sandboxes()
        workers = await self.jobs.capabilities()
        allow, ahead = self.jobs.config.sandbox.allow, workers.ahead
        listed = [
            answers.Sandbox(
                name=name,
                available=not backend.reason,
                reason=public_reason(backend.reason),
                isolation=backend.isolation,
                default=name == workers.default,
                selectable=name == workers.default or name in allow,
                enforces={camel(limit): level for limit, level in backend.enforces.items()},
                held=ahead.held.get(name, 0),
                not_held=public_reason(ahead.not_held.get(name, "")),
                terminals=backend.terminals,
                forks=ahead.forks.get(name, ()),
                not_forked={
                    language: public_reason(why) or ""
                    for language, why in ahead.not_forked.get(name, {}).items()
                },
            )
            for name, backend in sorted(workers.backends.items())
        ]
        return json_answer(answers.Sandboxes(listed, workers.default))

    def _why_not(self, language: str, workers: Capabilities) -> str:
        if self.jobs.workers.may_come(language, workers):
            return NO_WORKER
        return public_tool_reason(workers.missing.get(language, ""))

    async def show_queue(self, request: web.Request) -> web.Response:
        tenant = self.access.require(request, "list")
        stats, own = await self.jobs.stats(), await self.jobs.own_queue(tenant=tenant)
        waiting = [
            answers.WaitingJob(one.job_id, one.position, round(one.estimated_wait_s, 2))
            for one in own.jobs
        ]
        document = answers.Queue(
            running=stats.running,
            waiting=stats.waiting,
            capacity=(await self.jobs.capabilities()).places,
            max_waiting=self.jobs.config.queue.max_waiting,
            estimated_wait_s=round(own.estimated_wait_s, 2),
            own=answers.OwnQueue(own.running, own.waiting, own.most_running, waiting),
        )
        return json_answer(document)

    async def health(self, _: web.Request) -> web.Response:
        return json_answer(answers.Health("ok", len(self.sessions)))

    async def tell_ready(self, _: str) -> str:
        """Tell the other processes whether this one accepts jobs."""
        return "no" if self.jobs.draining.is_set() or not await self.jobs.reachable() else READY

    async def readiness(self, request: web.Request) -> web.Response:
        workers, reachable = NOTHING, False
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                workers, reachable = await self._ready_workers(), await self.jobs.reachable()
        except Exception as error:
            # Anybody may ask, and so must not fill the log while the engine is away.
            now = time.monotonic()
            if now - self._said_at >= SAY_AGAIN_S:
                self._said_at = now
                why = str(error) or "no answer in time"
                expected = isinstance(error, ConnectionError | TimeoutError)
                about = "the engine did not answer a readiness check: %s"
                log.error(about, why, exc_info=not expected)
        others = request.config_dict.get(SIBLINGS)
        told = {} if others is None else await others.ask("ready")
        checks = answers.ReadinessChecks(
            accepting=workers.accepting and not self.jobs.draining.is_set(),
            sandbox=workers.trusted,
            takedown=not workers.resisting,
            engine=reachable,
            languages=self.jobs.config.sandbox.allow_command or bool(workers.languages),
            processes=others is None or list(told.values()) == [READY] * (others.count - 1),
        )
        ready = all(msgspec.structs.astuple(checks))
        return json_answer(answers.Readiness(ready, checks), status=200 if ready else 503)

    async def _ready_workers(self) -> Capabilities:
        """Return the worker that this process is, or all that run what it accepts."""
        own = self.worker.own()
        if own is not None and self.jobs.config.server.role == "worker":
            return own
        return await self.jobs.capabilities()

    async def tell_metrics(self, _: str = "") -> str:
        """Return those of this process, and of the engine."""
        return exposition(
            await self.jobs.stats(),
            self.measures,
            (await self.jobs.capabilities()).places,
            self.sessions,
            self.bodies.held,
            self.worker.ahead(),
            self.webhooks,
        )

    async def metrics(self, request: web.Request) -> web.Response:
        self.access.require(request, "metrics")
        if not self.jobs.config.metrics.enabled:
            raise NotFound("metrics are off (metrics.enabled)")
        text = await self.tell_metrics()
        if (others := request.config_dict.get(SIBLINGS)) is not None:
            text = merged({others.own: text, **await others.ask("metrics")}, others.own)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _camel(limits: Limits) -> dict[str, float]:
    return {camel(name): value for name, value in asdict(limits).items()}


def _environment(name: str, facts: EnvironmentFacts | None) -> answers.Environment:
    built = facts is not None and not facts.reason
    return answers.Environment(
        name=name,
        available=built,
        reason=None if built else NOT_BUILT,
        packages=facts.packages if facts is not None else {},
    )

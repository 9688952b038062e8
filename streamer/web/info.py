"""The handlers about the service: what it can run, how busy and how healthy it is.

What it can run is what its workers have published (`streamer.model.capabilities`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from streamer.engine.measures import JobMeasures
from streamer.errors import NotFound
from streamer.jobs.jobs import Jobs
from streamer.model.capabilities import NOTHING, Ahead, EnvironmentFacts, public_reason
from streamer.model.environment import NOT_BUILT
from streamer.model.names import camel
from streamer.model.runtime import public_tool_reason
from streamer.sse.sessionmap import SessionMap
from streamer.web import answers
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.documents import json_answer
from streamer.web.metrics import exposition
from streamer.web.operations import service as operations

__all__ = ["InfoHandlers"]

log: Final = logging.getLogger(__name__)

ENGINE_TIMEOUT_S: Final = 5.0
"""How long a readiness check waits for the engine."""


@dataclass(frozen=True)
class InfoHandlers:
    jobs: Jobs
    sessions: SessionMap
    access: Access
    bodies: Bodies
    measures: JobMeasures
    try_sandboxes: Callable[[], Awaitable[None]]
    """Lets the worker of this process, if any, test the backends that were not tested yet."""
    ask_versions: Callable[[], None]
    """Lets the worker of this process, if any, begin to ask for the versions of languages."""
    ahead: Callable[[], Ahead]
    """Returns what the worker of this process, if any, has started before its job."""

    def routes(self) -> list[web.RouteDef]:
        return [
            operations.RUNTIMES.route(self.list_runtimes),
            operations.SANDBOXES.route(self.list_sandboxes),
            operations.QUEUE.route(self.show_queue),
            operations.HEALTH.route(self.health),
            operations.READINESS.route(self.readiness),
            operations.METRICS.route(self.metrics),
        ]

    async def list_runtimes(self, request: web.Request) -> web.Response:
        self.access.require(request, "list")
        self.ask_versions()
        workers = await self.jobs.capabilities()
        known = {runtime.name: runtime for runtime in self.jobs.runtimes.values()}
        listed = []
        for name, runtime in sorted(known.items()):
            available = name in workers.languages
            reason = None if available else public_tool_reason(workers.missing.get(name, ""))
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
                )
            )
        return json_answer(answers.Runtimes(listed))

    async def list_sandboxes(self, request: web.Request) -> web.Response:
        self.access.require(request, "list")
        await self.try_sandboxes()
        workers = await self.jobs.capabilities()
        allow, ahead = self.jobs.config.sandbox.allow, self.ahead()
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
                terminals=backend.terminals,
                forks=ahead.forks.get(name, ()),
            )
            for name, backend in sorted(workers.backends.items())
        ]
        return json_answer(answers.Sandboxes(listed, workers.default))

    async def show_queue(self, request: web.Request) -> web.Response:
        self.access.require(request, "list")
        stats = await self.jobs.stats()
        document = answers.Queue(
            running=stats.running,
            waiting=stats.waiting,
            capacity=(await self.jobs.capabilities()).places,
            max_waiting=self.jobs.config.queue.max_waiting,
            estimated_wait_s=await self.jobs.estimated_wait_s(),
        )
        return json_answer(document)

    async def health(self, _: web.Request) -> web.Response:
        return json_answer(answers.Health("ok", len(self.sessions)))

    async def readiness(self, _: web.Request) -> web.Response:
        workers, reachable = NOTHING, False
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                workers, reachable = await self.jobs.capabilities(), await self.jobs.reachable()
        except Exception:
            log.exception("the engine did not answer a readiness check")
        checks = answers.ReadinessChecks(
            accepting=workers.accepting and not self.jobs.draining.is_set(),
            sandbox=workers.trusted,
            takedown=not workers.resisting,
            engine=reachable,
            languages=self.jobs.config.sandbox.allow_command or bool(workers.languages),
        )
        ready = all(msgspec.structs.astuple(checks))
        return json_answer(answers.Readiness(ready, checks), status=200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        self.access.require(request, "metrics")
        if not self.jobs.config.metrics.enabled:
            raise NotFound("metrics are off (metrics.enabled)")
        text = exposition(
            await self.jobs.stats(),
            self.measures,
            (await self.jobs.capabilities()).places,
            self.sessions,
            self.bodies.held,
            self.ahead(),
        )
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})


def _environment(name: str, facts: EnvironmentFacts | None) -> answers.Environment:
    built = facts is not None and not facts.reason
    return answers.Environment(
        name=name,
        available=built,
        reason=None if built else NOT_BUILT,
        packages=facts.packages if facts is not None else {},
    )

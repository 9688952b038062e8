"""The routes of Dify's code sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from streamer import Caller, Job, Refusal, Route, RouteGroup
from streamer.compat.dify.translate import Run, problem, result, spec_of, success
from streamer.compat.outcome import outcome

__all__ = ["DIFY", "Options"]

KEEP_STATUS: Final = (401, 403)
UNSUPPORTED: Final = problem(-400, "unsupported language")


@dataclass(frozen=True, slots=True)
class Options:
    """``[compat.dify]``: `python_environment` is the environment of Python programs.

    Dify's templates need one with jinja2.
    """

    python_environment: str | None = None


@dataclass(frozen=True, slots=True)
class Handlers:
    options: Options

    async def run(self, caller: Caller) -> web.Response:
        network = caller.service.config.sandbox.network != "none"
        async with caller.document(Run) as run:
            spec = spec_of(run, network=network, python_environment=self.options.python_environment)
        if spec is None:
            return _json(UNSUPPORTED, 400)

        most_bytes = caller.service.config.streams.result_text_bytes

        async def answer(job: Job) -> Mapping[str, Any]:
            return result(await outcome(job, most_bytes))

        return _json(await caller.run(spec, answer))

    async def dependencies(self, caller: Caller) -> web.Response:
        """Tell the packages that programs in Python may import."""
        language = caller.request.query.get("language")
        if language != "python3":
            return _json(UNSUPPORTED, 400)
        packages = await self._packages(caller)
        listed = [{"name": name, "version": version} for name, version in packages.items()]
        return _json(success({"dependencies": listed}))

    async def _packages(self, caller: Caller) -> Mapping[str, str]:
        name = self.options.python_environment
        if name is None:
            return {}
        facts = (await caller.service.capabilities()).environments.get(name)
        return {} if facts is None else facts.packages

    async def health(self, _: Caller) -> web.Response:
        return _json("ok")


def _routes(options: Options) -> Iterable[Route]:
    handlers = Handlers(options)
    yield Route("POST", "/v1/sandbox/run", handlers.run, "submit")
    yield Route("GET", "/v1/sandbox/dependencies", handlers.dependencies, "list")
    yield Route("GET", "/v1/sandbox/dependencies/refresh", handlers.dependencies, "list")
    yield Route("GET", "/health", handlers.health, None)


def _refused(refusal: Refusal) -> web.Response:
    """Return a refusal as Dify's sandbox has it: mostly with status 200 and a negative code."""
    if refusal.status in KEEP_STATUS:
        return _json(problem(-refusal.status, refusal.message), 401)
    if refusal.status in (429, 503):
        return _json(problem(-503, refusal.message), 503)
    return _json(problem(-max(refusal.status, 400), refusal.message))


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json"
    )


DIFY: Final = RouteGroup(
    name="dify",
    routes=_routes,
    options=Options,
    token_headers=("X-Api-Key",),
    refusal=_refused,
)

"""The routes of Piston: ``/api/v2/runtimes``, ``packages``, ``execute`` and ``connect``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from aiohttp import web

import streamer
from streamer.compat.outcome import Outcome, outcome
from streamer.compat.piston.connect import connect
from streamer.compat.piston.request import Execution, Request, execution
from streamer.compat.piston.result import answer
from streamer.compat.piston.runtimes import Runtime, chosen, runtimes
from streamer.errors import CallerError, Forbidden, InvalidJob
from streamer.events import Complete

__all__ = ["GROUP", "Options"]

VERSION: Final = "3.1.1"
"""The version of its API that this follows."""
TYPES: Final = ("application/json", "text/plain")
"""Piston takes the first only; clients that send text as `fetch` does mean the same."""


@dataclass(frozen=True, slots=True)
class Options:
    """``[compat.piston]``."""

    any_version: bool = False
    """Whether a request gets the version that is here, whichever it asks for."""


def routes(options: Options) -> Sequence[streamer.Route]:
    run = partial(_execute, options=options)
    talk = partial(_connect, options=options)
    return [
        streamer.Route("GET", "/", _about, None),
        streamer.Route("GET", "/api/v2/runtimes", _runtimes, "list"),
        streamer.Route("GET", "/api/v2/packages", _packages, "list"),
        streamer.Route("POST", "/api/v2/packages", _no_packages, "submit"),
        streamer.Route("DELETE", "/api/v2/packages", _no_packages, "submit"),
        streamer.Route("POST", "/api/v2/execute", run, "submit"),
        streamer.Route("GET", "/api/v2/connect", talk, "submit"),
    ]


def refused(refusal: streamer.Refusal) -> web.Response:
    return web.json_response({"message": refusal.message}, status=refusal.status)


GROUP: Final = streamer.RouteGroup(
    "piston",
    routes,
    Options,
    # Its public instance wanted the token alone, with nothing before it.
    token_headers=("Authorization",),
    refusal=refused,
)


async def _about(_: streamer.Caller) -> web.Response:
    return web.json_response({"message": f"Piston v{VERSION}"})


async def _runtimes(caller: streamer.Caller) -> web.Response:
    return web.json_response([one.document() for one in await runtimes(caller)])


async def _packages(caller: streamer.Caller) -> web.Response:
    listed = [
        {"language": one.language, "language_version": one.shown, "installed": True}
        for one in await runtimes(caller)
    ]
    return web.json_response(listed)


async def _no_packages(_: streamer.Caller) -> web.Response:
    raise Forbidden("languages are installed on the host by its operator, not through this service")


async def _execute(caller: streamer.Caller, options: Options) -> web.Response:
    if caller.request.content_type not in TYPES:
        raise _OfAnotherType("requests must be of type application/json")
    known = await runtimes(caller)
    async with caller.document(Request) as request:
        asked = _checked(request, known, caller, options)
    done = await _run(caller, asked)
    if not isinstance(done.end, Complete):
        return web.json_response({"message": done.end.message}, status=500)
    return web.json_response(body=msgspec.json.encode(answer(done, asked.runtime)))


async def _run(caller: streamer.Caller, asked: Execution) -> Outcome:
    read = partial(outcome, limit=caller.service.config.streams.result_text_bytes)
    try:
        return await caller.run(_spec(asked, caller, apart=asked.runtime.compiled), read)
    except InvalidJob as error:
        if error.path is None or not error.path.startswith("$.cases"):
            raise
        # The sandbox cannot give a compiled program back, so compiler and program have one limit.
        return await caller.run(_spec(asked, caller, apart=False), read)


async def _connect(caller: streamer.Caller, options: Options) -> web.StreamResponse:
    known = await runtimes(caller)

    def spec_of(request: Request) -> tuple[streamer.JobSpec, Runtime]:
        asked = _checked(request, known, caller, options)
        return _spec(asked, caller, apart=False, interactive=True), asked.runtime

    return await connect(caller, spec_of)


def _checked(
    request: Request, known: Sequence[Runtime], caller: streamer.Caller, options: Options
) -> Execution:
    found = None
    if isinstance(request.language, str) and isinstance(request.version, str | None):
        wanted = request.version or ""
        found = chosen(known, request.language, wanted, any_version=options.any_version)
    return execution(request, found, caller.service.config, any_version=options.any_version)


def _spec(
    asked: Execution, caller: streamer.Caller, *, apart: bool, interactive: bool = False
) -> streamer.JobSpec:
    """Return the job. `apart`: its program has other limits than its compiler, as its only case."""
    config = caller.service.config
    limits = asked.both
    # More could not be told, so the program ends there as it would at Piston's own limit.
    if not interactive:
        most = min(config.streams.result_text_bytes, config.limits.default.output_bytes)
        limits = {**limits, "output_bytes": most}
    return streamer.JobSpec(
        language=asked.runtime.name,
        files=asked.files,
        entry=asked.files[0].name,
        args=asked.args,
        stdin=None if interactive else asked.stdin,
        interactive=interactive,
        limits=limits,
        cases=(streamer.Case(limits=asked.run),) if apart else (),
    )


class _OfAnotherType(CallerError):
    """The body is of a type that is not read (415)."""

    status = 415

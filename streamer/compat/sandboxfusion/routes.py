"""The routes of SandboxFusion."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from streamer import Caller, Job, Refusal, Route, RouteGroup
from streamer.compat.outcome import outcome
from streamer.compat.sandboxfusion.translate import RunCode, result, spec_of
from streamer.errors import TooLarge

__all__ = ["SANDBOXFUSION", "Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """``[compat.sandboxfusion]``: `python_environment` is the environment of Python programs."""

    python_environment: str | None = None


@dataclass(frozen=True, slots=True)
class Handlers:
    options: Options

    async def run_code(self, caller: Caller) -> web.Response:
        async with caller.document(RunCode) as run:
            most = caller.service.config.limits.max
            spec = spec_of(run, most, self.options.python_environment)
        most_bytes = caller.service.config.streams.result_text_bytes
        compiled = any(
            language.name == spec.language and language.compiled
            for language in await caller.languages()
        )

        async def answer(job: Job) -> Mapping[str, Any]:
            ran = await outcome(job, most_bytes)
            files = await _fetched(job, run.fetch_files, most_bytes) if run.fetch_files else {}
            return result(ran, compiled=compiled, files=files)

        return web.Response(
            body=msgspec.json.encode(await caller.run(spec, answer)),
            content_type="application/json",
        )

    async def ping(self, _: Caller) -> web.Response:
        return web.json_response("pong")


async def _fetched(job: Job, names: Iterable[str], most_bytes: int) -> dict[str, bytes]:
    """Return the files that were asked for and are there, by the names that were asked for.

    Raises `TooLarge` if they have more than `most_bytes` together.
    """
    left = {file.name: file for file in await job.files()}
    wanted = {name: left[key] for name in names if (key := name.removeprefix("./")) in left}
    if sum(file.blob.bytes for file in wanted.values()) > most_bytes:
        raise TooLarge(
            f"the files to fetch have more than {most_bytes} bytes together "
            "(streams.result_text_bytes)"
        )
    found = {}
    for name, file in wanted.items():
        async with job.open_file(file) as fd:
            found[name] = await asyncio.to_thread(partial(os.pread, fd, file.blob.bytes, 0))
    return found


def _routes(options: Options) -> Iterable[Route]:
    handlers = Handlers(options)
    yield Route("POST", "/run_code", handlers.run_code, "submit")
    yield Route("GET", "/v1/ping", handlers.ping, None)
    yield Route("GET", "/ping", handlers.ping, None)


def _refused(refusal: Refusal) -> web.Response:
    """Return a refusal as FastAPI has it; clients show it, and repeat the request."""
    status = 422 if refusal.status == 400 else refusal.status
    return web.json_response({"detail": refusal.message}, status=status)


SANDBOXFUSION: Final = RouteGroup(
    name="sandboxfusion", routes=_routes, options=Options, refusal=_refused
)

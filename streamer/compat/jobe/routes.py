"""The routes of Jobe: what runs ask for, the files they name, and the languages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from streamer import Caller, Job, Refusal, Route, RouteGroup
from streamer.compat.jobe.files import FileCache
from streamer.compat.jobe.languages import LANGUAGES, RUNTIMES, with_packages
from streamer.compat.jobe.translate import OVERLOAD, Refused, result, spec_of
from streamer.compat.outcome import outcome

__all__ = ["JOBE", "Options"]

MIB: Final = 1024 * 1024
API: Final = "/index.php/restapi"
FORBIDDEN: Final = (401, 403)
OVERLOADED: Final = frozenset({"queue_full", "shutting_down", "sandbox_unavailable"})
"""Jobe has no queue: it answers so when all of its places are taken."""


@dataclass(frozen=True, slots=True)
class Options:
    """``[compat.jobe]``: `file_cache_bytes` of files are kept in memory for later runs.

    `python_packages` is the folder of an environment that `streamer environment build` has made,
    with what programs in Python may import.
    """

    file_cache_bytes: int = 64 * MIB
    python_packages: str = ""


@dataclass(frozen=True, slots=True)
class Handlers:
    files: FileCache

    async def languages(self, caller: Caller) -> web.Response:
        versions = await _available(caller)
        return _json([[name, version or "Unknown"] for name, version in versions.items()])

    async def run(self, caller: Caller) -> web.Response:
        most = caller.service.config.limits.max
        available = await _available(caller)
        async with caller.document(dict[str, Any]) as document:
            try:
                spec = spec_of(document, partial(self.files.find, caller.tenant), most, available)
            except Refused as refused:
                return _json(refused.message, refused.status)
            language = document["run_spec"]["language_id"]
        if spec is None:
            return _json(OVERLOAD)
        most_bytes = caller.service.config.streams.result_text_bytes

        async def answer(job: Job) -> Mapping[str, Any]:
            return result(job.id, language, await outcome(job, most_bytes))

        return _json(await caller.run(spec, answer))

    async def put_file(self, caller: Caller) -> web.Response:
        file_id = caller.request.match_info["file_id"]
        async with caller.document(dict[str, Any]) as document:
            text = document.get("file_contents")
            if not isinstance(text, str):
                return _json("put: missing file_contents parameter", 400)
            try:
                content = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                wrong = f"put: contents of file {file_id} are not valid base-64"
                return _json(wrong, 400)
        if not self.files.put(caller.tenant, file_id, content):
            return _json(f"put: failed to write file {file_id} to cache", 500)
        return web.Response(status=204)

    async def has_file(self, caller: Caller) -> web.Response:
        found = self.files.find(caller.tenant, caller.request.match_info["file_id"])
        return web.Response(status=404 if found is None else 204)


async def _available(caller: Caller) -> Mapping[str, str | None]:
    """Return the languages that can be run now, by Jobe's names, with their versions."""
    known = {each.name: each for each in await caller.languages() if each.available}
    return {
        name: known[language.language].version
        for name, language in LANGUAGES.items()
        if language.language in known
    }


def _routes(options: Options) -> Iterable[Route]:
    handlers = Handlers(FileCache(options.file_cache_bytes))
    file = API + "/files/{file_id:[A-Za-z0-9]{1,128}}"
    for end in ("", "/"):  # its own test programs ask with a slash
        yield Route("GET", f"{API}/languages{end}", handlers.languages, "list")
        yield Route("POST", f"{API}/runs{end}", handlers.run, "submit")
    yield Route("PUT", file, handlers.put_file, "upload")
    yield Route("HEAD", file, handlers.has_file, "upload")


def _runtimes(options: Options) -> Mapping[str, Mapping[str, Any]]:
    if not options.python_packages:
        return RUNTIMES
    return {**RUNTIMES, "python@jobe": with_packages(options.python_packages)}


def _refused(refusal: Refusal) -> web.Response:
    """Return a refusal as Jobe has it: a text in JSON, or the answer of an overloaded server."""
    if refusal.code in OVERLOADED:
        return _json(OVERLOAD)
    # CodeRunner takes a 401 for a spent limit of submissions.
    status = 403 if refusal.status in FORBIDDEN else refusal.status
    return _json(refusal.message, status)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json"
    )


JOBE: Final = RouteGroup(
    name="jobe",
    routes=_routes,
    options=Options,
    token_headers=("X-API-KEY",),
    refusal=_refused,
    runtimes=_runtimes,
)

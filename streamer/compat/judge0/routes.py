"""The routes of Judge0: submissions, alone and in batches, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

import streamer
from streamer.compat.judge0.configuration import MOST_IN_BATCH, config_info
from streamer.compat.judge0.document import chosen, job_id_of, shown, token_of
from streamer.compat.judge0.languages import IDS, Listed, listed
from streamer.compat.judge0.request import Invalid, Kept, Submission, submission
from streamer.compat.judge0.statuses import NAMES
from streamer.compat.judge0.texts import NotText
from streamer.compat.outcome import Outcome, outcome
from streamer.errors import (
    CallerError,
    ConfigError,
    InvalidJob,
    InvalidRequest,
    NotFound,
    UnknownJob,
)

__all__ = ["GROUP", "Options"]

VERSION: Final = "1.13.1"
"""The version that this follows."""
METADATA: Final = "judge0"
OVER: Final = ("complete", "error")
NO_TEXT: Final = "cannot be converted to UTF-8, use base64_encoded=true query parameter"


@dataclass(frozen=True, slots=True)
class Options:
    """``[compat.judge0]``."""

    languages: Mapping[str, str] = field(default_factory=dict)
    """Names of languages by ids, besides those that Judge0 has; ``""`` takes one away."""


@dataclass(frozen=True, slots=True)
class _Judge:
    ids: Mapping[str, str]

    async def languages(self, caller: streamer.Caller) -> Mapping[int, Listed]:
        return listed(await caller.languages(), self.ids)

    async def list_languages(self, caller: streamer.Caller) -> web.Response:
        known = await self.languages(caller)
        return _json([one.document() for one in known.values()])

    async def all_languages(self, caller: streamer.Caller) -> web.Response:
        known = await self.languages(caller)
        return _json([{**one.document(), "is_archived": False} for one in known.values()])

    async def one_language(self, caller: streamer.Caller) -> web.Response:
        known = await self.languages(caller)
        found = known.get(int(caller.request.match_info["id"]))
        if found is None:
            raise NotFound("there is no such language")
        return _json(found.in_full())

    async def create(self, caller: streamer.Caller) -> web.Response:
        """Accept a submission; with ``wait=true`` answer when it is over."""
        query = caller.request.query
        fields, base64 = chosen(query.get("fields")), _base64(caller)
        known = await self.languages(caller)
        async with caller.document(dict[str, Any]) as asked:
            try:
                one = submission(asked, known, caller.service.config, in_base64=base64)
            except Invalid as invalid:
                return _json(invalid.errors, 422)
        if query.get("wait") != "true":
            job = await _submitted(caller, one)
            return _json({"token": token_of(job.id)}, 201)
        with caller.place():
            job = await _submitted(caller, one)
            # It can be asked for later, so it goes on if the client leaves.
            became = await caller.attend(job, outcome(job, _most(caller)), keep=True)
            view, token = await job.view(), token_of(job.id)
            try:
                told = shown(view, one.kept, became, one.language, fields, base64=base64)
            except NotText:
                told = {"token": token, "error": f"some attributes for this submission {NO_TEXT}"}
            return _json(told, 201)

    async def create_batch(self, caller: streamer.Caller) -> web.Response:
        base64 = _base64(caller)
        known = await self.languages(caller)
        found: list[Submission | dict[str, list[str]]] = []
        async with caller.document(_Batch) as asked:
            _check_number(len(asked.submissions))
            for one in asked.submissions:
                try:
                    found.append(submission(one, known, caller.service.config, in_base64=base64))
                except Invalid as invalid:
                    found.append(invalid.errors)
        told: list[dict[str, Any]] = []
        for each in found:
            if isinstance(each, dict):
                told.append(each)
                continue
            try:
                told.append({"token": token_of((await _submitted(caller, each)).id)})
            except CallerError as error:
                told.append({"error": [error.message]})
        return _json(told, 201 if any("token" in one for one in told) else 422)

    async def show(self, caller: streamer.Caller) -> web.Response:
        fields, base64 = chosen(caller.request.query.get("fields")), _base64(caller)
        known = await self.languages(caller)
        with caller.place():
            try:
                told = await _shown(caller, _token(caller), known, fields, base64=base64)
            except NotText:
                raise InvalidRequest(f"some attributes for this submission {NO_TEXT}") from None
            return _json(told)

    async def show_batch(self, caller: streamer.Caller) -> web.Response:
        request = caller.request
        fields, base64 = chosen(request.query.get("fields")), _base64(caller)
        text = request.headers.get("tokens") or request.query.get("tokens", "")
        tokens = [one.strip() for one in text.split(",") if one.strip()]
        _check_number(len(tokens))
        known = await self.languages(caller)
        told: list[dict[str, Any] | None] = []
        with ExitStack() as places:
            for token in tokens:
                places.enter_context(caller.place())  # each may have the output of one job
                try:
                    told.append(await _shown(caller, token, known, fields, base64=base64))
                except UnknownJob:
                    told.append(None)
                except NotText:
                    said = f"some attributes for one or more submissions {NO_TEXT}"
                    raise InvalidRequest(said) from None
            return _json({"submissions": told})

    async def delete(self, caller: streamer.Caller) -> web.Response:
        """Delete a submission that is over, and show it for the last time."""
        fields = chosen(caller.request.query.get("fields"))
        known = await self.languages(caller)
        job, view = await caller.job(job_id_of(_token(caller)), "cancel")
        _kept(view)
        if view.state not in OVER:
            number = 1 if view.state == "queued" else 2
            raise InvalidRequest(
                f"submission cannot be deleted because its status is {number} ({NAMES[number]})"
            )
        with caller.place():
            told = await _shown(caller, _token(caller), known, fields, base64=True)
            await job.purge()
            return _json(told)


class _Batch(msgspec.Struct):
    submissions: list[dict[str, Any]] = []


def routes(options: Options) -> Sequence[streamer.Route]:
    for number in options.languages:
        if not (number.isascii() and number.isdecimal()):
            raise ConfigError(
                f"compat.judge0.languages.{number}: write the number of a language, as in 71"
            )
    judge = _Judge({**IDS, **options.languages})
    return [
        streamer.Route("POST", "/submissions", judge.create, "submit"),
        streamer.Route("POST", "/submissions/batch", judge.create_batch, "submit"),
        streamer.Route("GET", "/submissions/batch", judge.show_batch, "read"),
        streamer.Route("GET", "/submissions/{token}", judge.show, "read"),
        streamer.Route("DELETE", "/submissions/{token}", judge.delete, "cancel"),
        streamer.Route("GET", "/languages", judge.list_languages, "list"),
        streamer.Route("GET", "/languages/all", judge.all_languages, "list"),
        streamer.Route("GET", "/languages/{id:[0-9]{1,9}}", judge.one_language, "list"),
        streamer.Route("GET", "/statuses", _statuses, "list"),
        streamer.Route("GET", "/config_info", _config_info, "list"),
        streamer.Route("GET", "/about", _about, None),
        streamer.Route("GET", "/version", _version, None),
        streamer.Route("POST", "/authenticate", _authenticate, "list"),
    ]


def refused(refusal: streamer.Refusal) -> web.Response:
    if refusal.code == "queue_full":
        return _json({"error": "queue is full"}, 503)
    return _json({"error": refusal.message}, refusal.status)


GROUP: Final = streamer.RouteGroup(
    "judge0", routes, Options, token_headers=("X-Auth-Token",), refusal=refused
)


async def _statuses(_: streamer.Caller) -> web.Response:
    return _json([{"id": number, "description": name} for number, name in NAMES.items()])


async def _config_info(caller: streamer.Caller) -> web.Response:
    return _json(config_info(caller.service.config))


async def _about(_: streamer.Caller) -> web.Response:
    return _json({"version": VERSION, "homepage": None, "source_code": None, "maintainer": None})


async def _version(_: streamer.Caller) -> web.Response:
    return web.Response(text=VERSION)


async def _authenticate(_: streamer.Caller) -> web.Response:
    return web.Response()


async def _submitted(caller: streamer.Caller, one: Submission) -> streamer.Job:
    apart = one.language.compiled or one.runs > 1
    try:
        return await caller.submit(_spec(one, caller, apart=apart))
    except InvalidJob as error:
        if one.runs > 1 or error.path is None or not error.path.startswith("$.cases"):
            raise
        # The sandbox cannot give a compiled program back: its figures are with the compiler's.
        return await caller.submit(_spec(one, caller, apart=False))


def _spec(one: Submission, caller: streamer.Caller, *, apart: bool) -> streamer.JobSpec:
    return streamer.JobSpec(
        language=one.language.language,
        files=(streamer.SourceFile(one.language.entry, one.source),),
        args=one.args,
        stdin=one.stdin,
        limits={**one.limits, "output_bytes": _most(caller)},
        network=one.network,
        output_encoding="base64",
        cases=tuple(streamer.Case() for _ in range(one.runs)) if apart else (),
        stop_on_failure=apart,
        metadata={METADATA: msgspec.json.encode(one.kept).decode()},
    )


async def _shown(
    caller: streamer.Caller,
    token: str,
    known: Mapping[int, Listed],
    fields: Sequence[str],
    *,
    base64: bool,
) -> dict[str, Any]:
    job, view = await caller.job(job_id_of(token))
    kept = _kept(view)
    became: Outcome | None = None
    if view.state in OVER:
        became = await outcome(job, _most(caller))
    return shown(view, kept, became, known.get(kept.language_id), fields, base64=base64)


def _kept(view: streamer.JobView) -> Kept:
    """Return what was kept of a submission. Raises `UnknownJob` for a job that was none."""
    try:
        return msgspec.json.decode(view.job.metadata[METADATA], type=Kept)
    except (KeyError, msgspec.DecodeError):
        raise UnknownJob("there is no such submission") from None


def _most(caller: streamer.Caller) -> int:
    """Return how many bytes of output a program may write: not more than can be told."""
    config = caller.service.config
    return min(config.streams.result_text_bytes, config.limits.default.output_bytes)


def _check_number(number: int) -> None:
    if number > MOST_IN_BATCH:
        raise InvalidRequest(
            f"number of submissions in a batch should be less than or equal to {MOST_IN_BATCH}"
        )
    if not number:
        raise InvalidRequest("there should be at least one submission in a batch")


def _base64(caller: streamer.Caller) -> bool:
    return caller.request.query.get("base64_encoded") == "true"


def _token(caller: streamer.Caller) -> str:
    return caller.request.match_info["token"]


def _json(document: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(document)
    return web.Response(body=body, status=status, content_type="application/json")

"""Generate the OpenAPI 3.1 document from the operations, and from the types that they name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import groupby
from signal import valid_signals
from typing import Any, Final

import streamer
from streamer.jobs.terminals import MOST as MOST_CELLS
from streamer.model.events import KINDS, Stats
from streamer.model.job import LEAST, MOST, Limits
from streamer.model.names import camel
from streamer.model.signals import NUMBERS
from streamer.web.answers import Problem
from streamer.web.callers.access import GRANTED, GRANTED_FILES
from streamer.web.operations.operation import (
    CODES,
    PLACES,
    Body,
    Header,
    Operation,
    Parameter,
    Reply,
    Schema,
    component,
)
from streamer.web.operations.shared import BYTES
from streamer.web.operations.table import OPERATIONS, TAGS
from streamer.web.reference.schemas import schema_name, schemas

__all__ = ["Facts", "openapi"]

ABOUT: Final = """\
Runs programs in sandboxes and streams their output.

Names are camelCase; `Bytes`, `Ms` and `S` at the end of a name are its unit. Unknown fields and
query parameters are refused; `null` for an optional field is "not given". Errors are problem
documents (RFC 9457), told apart by their `code`. Every route may also answer `404` (no such
address) and `405` with `Allow` (no such method), which are problems too.

With tokens every request needs one: `Authorization: Bearer TOKEN`, or with GET
`?access_token=TOKEN`. Without tokens only requests from the service's own machine are taken, by the
connection, by `Host` and by the headers that proxies add, such as `X-Forwarded-For`. With
`?grant=GRANT` one job may be read from anywhere, without a token.

A page of another site, as `Origin`, `Sec-Fetch-Site` and `Sec-Fetch-Mode` tell, is refused unless
`server.allowed_origins` has its origin. An answer to it has `Access-Control-Allow-Origin` and the
other headers of CORS, `Access-Control-Allow-Methods`, `Access-Control-Allow-Headers`,
`Access-Control-Expose-Headers` and `Access-Control-Max-Age`, and `Vary`."""

PLACE_TEXTS: Final = {
    "job_id": "The id of the job.",
    "project_id": "The id of the project.",
    "session_id": "The id of the session.",
    "stream": "Which output.",
    "path": "The path of the file in the workspace; slashes in it may be percent-encoded.",
}

LINKED: Final = {
    "job": "$response.body#/jobId",
    "job_id": "$response.body#/jobId",
    "project_id": "$response.body#/projectId",
    "session_id": "$response.body#/sessionId",
    "stream": "stdout",
    "path": "out.txt",
}
"""What a link gives to the parameters of its operation."""
JOB_IN_PROJECT: Final = {"language": "python", "projectId": "$response.body#/projectId"}

RETRY_AFTER: Final = Header(
    "Retry-After", "After how many seconds to try again.", {"type": "integer", "minimum": 1}
)
HEADERS: Final = {
    401: [Header("WWW-Authenticate", "How to log in.", {"type": "string"}, always=False)],
    416: [Header("Content-Range", "The size of the file.", {"type": "string"})],
    429: [RETRY_AFTER],
    # A sandbox that does not work is not mended by time.
    503: [replace(RETRY_AFTER, always=False)],
}
NO_HTTP: Final = "A request that is no valid HTTP, or whose first line is too long."
STREAM_TEXT: Final = """\
One of Server-Sent Events. `retry:` comes with the first one; an idle stream carries comments (`:`).
Exactly one `complete` or `error` ends the log of a job."""
EVENT_ID: Final = {
    "type": "string",
    "pattern": r"^[0-9]+(\.[0-9]+)*$",
    "description": "A number that grows along the job's log; one for each job, with dots between "
    "them, in a stream of several jobs.",
}


@dataclass(frozen=True)
class Facts:
    """What the document says of one service."""

    base: str
    """The address below which all routes are, without a slash at its end."""
    languages: tuple[str, ...] = ()
    """The names of the configured languages, with their aliases; none: they are not told."""
    most: Limits = MOST
    """The highest limits of a job."""


def openapi(facts: Facts) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "streamer", "version": streamer.__version__, "description": ABOUT},
        "servers": [{"url": facts.base or "/"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(facts),
            "responses": {
                _response_name(codes[0]): _refusal(codes)
                for one in OPERATIONS
                for codes in _by_status(one.problems)
                if len(codes) == 1
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "tokenInQuery": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "access_token",
                    "description": "For an EventSource, which cannot set headers.",
                },
                "grant": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "grant",
                    "description": "A link to one job, of `createGrant`.",
                },
            },
        },
    }


def _schemas(facts: Facts) -> dict[str, Any]:
    """Return the schemas of all types; a job's is as narrow as the service's configuration."""
    made = schemas([Problem, *KINDS.values(), *_types()])
    job, limits = made["JobRequest"], made["Limits"]["properties"]
    # Not with `oneOf`: generators of clients would take its branches for types of their own.
    job |= {
        "if": {"required": ["language"], "properties": {"language": {"type": "string"}}},
        "then": {"properties": {"command": {"type": "null"}}},
        "else": {
            "required": ["command"],
            "properties": {"command": {"type": "array", "minItems": 1}},
        },
    }
    if facts.languages:
        job["properties"]["language"]["anyOf"][0]["enum"] = list(facts.languages)
    for field in fields(Limits):
        least, most = getattr(LEAST, field.name), getattr(facts.most, field.name)
        for one in limits[camel(field.name)]["anyOf"]:
            if one["type"] in ("integer", "number"):
                one.update(minimum=least, maximum=most)
    for name in ("Terminal", "ResizeRequest"):
        for one in made[name]["properties"].values():
            one.update(minimum=1, maximum=MOST_CELLS)
    known = [name for name, number in NUMBERS.items() if number in valid_signals()]
    made["SignalRequest"]["properties"]["signal"]["enum"] = known
    return {"Event": _event(), **made}


def _event() -> dict[str, Any]:
    """Return the schema of what a stream consists of: one event, with its data as text."""
    return {
        "title": "Event",
        "description": STREAM_TEXT,
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "event": {"const": kind},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": component(schema_name(one)),
                    },
                    **({} if one is Stats else {"id": EVENT_ID}),
                    "retry": {"type": "integer", "description": "In milliseconds."},
                },
                "required": ["event", "data"] if one is Stats else ["event", "data", "id"],
            }
            for kind, one in KINDS.items()
        ],
    }


def _types() -> list[Any]:
    """Return the types of all bodies."""
    found = []
    for operation in OPERATIONS:
        if operation.body is not None and operation.body.json is not None:
            found.append(operation.body.json)
        found += [reply.json for reply in operation.replies if reply.json is not None]
        found += [one for reply in operation.replies for one in reply.each]
    return found


def _described(operation: Operation) -> dict[str, Any]:
    title, _, more = operation.text.partition(". ")
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": title.removesuffix("."),
        "security": _security(operation),
        "parameters": [
            *(_place(name) for name in operation.places),
            *(_parameter(one) for one in operation.parameters),
        ],
        "responses": _responses(operation),
    }
    if more:
        described["description"] = more
    if operation.body is not None:
        described["requestBody"] = _body(operation.body)
    return described


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    ways: list[dict[str, list[str]]] = [{}, {"token": []}]
    if operation.method == "GET":
        ways.append({"tokenInQuery": []})
    if operation.name in GRANTED | GRANTED_FILES:
        ways.append({"grant": []})
    return ways


def _place(name: str) -> dict[str, Any]:
    pattern = PLACES[name]
    schema: dict[str, Any] = {"type": "string", "pattern": f"^{pattern}$"}
    if "|" in pattern:
        schema = {"type": "string", "enum": pattern.split("|")}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": PLACE_TEXTS[name],
        "schema": schema,
    }


def _parameter(one: Parameter) -> dict[str, Any]:
    described = {
        "name": one.name,
        "in": one.place,
        "required": one.required,
        "description": one.text,
        "schema": one.schema,
    }
    return {**described, "style": "form", "explode": True} if one.repeated else described


def _body(body: Body) -> dict[str, Any]:
    media = body.media or {"application/octet-stream": BYTES}
    if body.json is not None:
        schema: Schema = component(schema_name(body.json))
        if body.most is not None:
            schema = {"type": "array", "items": schema, "maxItems": body.most}
        media = {"application/json": schema}
    content: dict[str, Any] = {kind: {"schema": schema} for kind, schema in media.items()}
    if body.examples is not None:
        examples = {name: {"value": value} for name, value in body.examples.items()}
        content["application/json"]["examples"] = examples
    return {"description": body.text, "required": body.required, "content": content}


def _responses(operation: Operation) -> dict[str, Any]:
    responses = {str(reply.status): _reply(reply) for reply in operation.replies}
    for codes in _by_status(operation.problems):
        status = str(CODES[codes[0]][0])
        assert status not in responses, "a problem has the status of another answer"
        single = len(codes) == 1
        name = _response_name(codes[0])
        responses[status] = component(name, "responses") if single else _refusal(codes)
    return responses


def _by_status(codes: Iterable[str]) -> list[list[str]]:
    """Return codes of problems, those with the same status together."""
    return [[*same] for _, same in groupby(codes, key=lambda code: CODES[code][0])]


def _reply(reply: Reply) -> dict[str, Any]:
    described: dict[str, Any] = {"description": reply.text}
    content: dict[str, Any] = {}
    if reply.json is not None:
        content["application/json"] = {"schema": component(schema_name(reply.json))}
    if reply.each:
        either = [component(schema_name(one)) for one in reply.each]
        schema = {"type": "array", "items": {"anyOf": either}}
        content["application/json"] = {"schema": schema}
    for media in reply.media:
        content[media] = _media(media)
    if content:
        described["content"] = content
    if reply.headers:
        described["headers"] = _headers(reply.headers)
    if reply.links:
        described["links"] = {name: _link(name) for name in reply.links}
    return described


def _media(media: str) -> dict[str, Any]:
    if media == "application/json":
        return {"schema": {"type": "object"}}
    if media == "text/event-stream":
        return {"schema": component("Event")}
    return {"schema": {"type": "string"} if media.startswith("text/") else BYTES}


def _headers(headers: Iterable[Header]) -> dict[str, Any]:
    return {
        one.name: {"description": one.text, "required": one.always, "schema": one.schema}
        for one in headers
    }


def _link(name: str) -> dict[str, Any]:
    (target,) = (one for one in OPERATIONS if one.id == name)
    needed = (*target.places, *(one.name for one in target.parameters if one.required))
    link = {"operationId": name, "parameters": {one: LINKED[one] for one in needed}}
    return {**link, "requestBody": JOB_IN_PROJECT} if name == "execute" else link


def _response_name(code: str) -> str:
    return "".join(word.capitalize() for word in code.split("_"))


def _refusal(codes: list[str]) -> dict[str, Any]:
    """Return the response with a problem that has one of these codes, all of one status."""
    status, _ = CODES[codes[0]]
    said = "; ".join(f"`{code}`: {CODES[code][1]}" for code in codes)
    refusal: dict[str, Any] = {
        "description": f"{said}.",
        "content": {
            "application/problem+json": {
                "schema": {
                    **component(schema_name(Problem)),
                    "properties": {"status": {"const": status}, "code": {"enum": codes}},
                }
            }
        },
    }
    if status == 400:
        refusal["content"]["text/plain"] = {"schema": {"type": "string", "description": NO_HTTP}}
    if status in HEADERS:
        refusal["headers"] = _headers(HEADERS[status])
    return refusal

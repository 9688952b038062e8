"""One operation: its address, what it takes and what it answers, as OpenAPI 3.1 describes them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from aiohttp import hdrs, web

from streamer.web.parameters import Handler, takes

__all__ = [
    "CODES",
    "Body",
    "Header",
    "Operation",
    "Parameter",
    "Reply",
    "Schema",
    "component",
]

Schema = Mapping[str, Any]
"""A JSON Schema."""

Expect = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

CODES: Final[Mapping[str, tuple[int, str]]] = {
    "invalid_json": (400, "the body is not valid JSON"),
    "invalid_request": (400, "a field, parameter or header is unknown, missing or invalid"),
    "unknown_language": (400, "there is no such language, or it is not available"),
    "unknown_project": (400, "there is no such project"),
    "unauthorized": (401, "no credentials, or wrong ones"),
    "forbidden": (403, "the configuration does not allow it to the caller, or to the page"),
    "not_found": (404, "there is no such job, project, session or file, or it is another tenant's"),
    "conflict": (409, "the job or session, or an earlier request with that key, does not allow it"),
    "gone": (410, "it is no longer kept, or has ended"),
    "payload_too_large": (413, "the body, or what is in it, is larger than is ever allowed"),
    "range_not_satisfiable": (416, "the file has no byte in the range"),
    "queue_full": (429, "the queue is full"),
    "rate_limited": (429, "the caller's share is used up, or there is no room at the moment"),
    "storage_full": (429, "there is no disk space for it at the moment"),
    "internal": (500, "the service is at fault; its log says how"),
    "sandbox_unavailable": (503, "the sandbox does not work on this host"),
    "shutting_down": (503, "the service is shutting down, or has not started yet"),
    "engine_unavailable": (503, "the server with the jobs does not answer at the moment"),
}
"""The codes of problems, with their status and meaning."""

ALWAYS: Final = (
    *("invalid_request", "unauthorized", "forbidden", "rate_limited", "internal"),
    "engine_unavailable",
)
"""What any route may answer."""

PLACES: Final[Mapping[str, str]] = {
    "job_id": "[0-9a-z]{1,64}",
    "project_id": "[0-9a-z]{1,64}",
    "session_id": "[0-9a-z]{1,64}",
    "stream": "stdout|stderr",
    "path": r"[\s\S]+",
}
"""The patterns of what stands in a path."""


def component(name: str, kind: str = "schemas") -> dict[str, str]:
    """Return a reference to a part of the document that stands in it once."""
    return {"$ref": f"#/components/{kind}/{name}"}


@dataclass(frozen=True)
class Parameter:
    """A query parameter, or a header of a request."""

    name: str
    text: str
    schema: Schema
    place: Literal["query", "header"] = "query"
    required: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class Header:
    """A header of an answer."""

    name: str
    text: str
    schema: Schema
    always: bool = True


@dataclass(frozen=True)
class Body:
    """The body of a request: JSON of a type, bytes of these media types, or any bytes."""

    text: str
    json: type[msgspec.Struct] | None = None
    media: Mapping[str, Schema] | None = None
    required: bool = True
    examples: Mapping[str, Any] | None = None
    most: int | None = None
    """With it the body is an array of so many of the type at most."""


@dataclass(frozen=True)
class Reply:
    """An answer that is no problem: JSON of a type, another media type, both, or nothing."""

    status: int
    text: str
    json: type[msgspec.Struct] | None = None
    each: tuple[type[msgspec.Struct], ...] = ()
    """Instead: the body is an array, each element of which has one of these types."""
    media: tuple[str, ...] = ()
    headers: tuple[Header, ...] = ()
    links: tuple[str, ...] = ()
    """Operations that take an id of the answer, by their own ids."""


@dataclass(frozen=True)
class Operation:
    """What one method of one route does."""

    id: str
    """Its name in the document, and of the functions in generated clients."""
    method: str
    path: str
    tag: str
    text: str
    """What it does; the first sentence is its title."""
    replies: tuple[Reply, ...]
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    codes: tuple[str, ...] = ()
    """The codes of its problems, besides those that any route may have."""
    name: str = ""
    """The name of the route, to find its address."""
    head: bool = True
    """Whether GET goes with HEAD."""
    checks_query: bool = True
    """Whether unknown query parameters are refused."""

    @property
    def places(self) -> tuple[str, ...]:
        """The names of what stands in the path."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def problems(self) -> tuple[str, ...]:
        """All codes that it may answer with."""
        # An answer of its own with that status says the same: readiness, of an engine that is away.
        own = {reply.status for reply in self.replies}
        codes = {code for code in ALWAYS if CODES[code][0] not in own}.union(self.codes)
        if self.places:
            codes.add("not_found")
        if self.body is not None:
            codes.add("payload_too_large")
        return tuple(code for code in CODES if code in codes)

    def route(self, handler: Handler, *, expect: Expect | None = None) -> web.RouteDef:
        """Return the route of this operation, which the handler answers.

        A request with the header Expect goes to `expect` first.
        """
        path = re.sub(r"{(\w+)}", lambda found: f"{{{found[1]}:{PLACES[found[1]]}}}", self.path)
        if self.checks_query:
            query = (one.name for one in self.parameters if one.place == "query")
            handler = takes(handler, *query)
        options: dict[str, Any] = {"name": self.name} if self.name else {}
        if self.method == hdrs.METH_GET:
            options["allow_head"] = self.head
        if expect is not None:
            options["expect_handler"] = expect
        return web.RouteDef(self.method, path, handler, options)

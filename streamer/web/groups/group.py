"""What a plugin declares to add routes: `streamer_routes` returns a list of `RouteGroup`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from streamer.web.refusals import Words

if TYPE_CHECKING:
    from streamer.web.callers.access import Action
    from streamer.web.groups.caller import Caller

__all__ = ["NoOptions", "Route", "RouteGroup"]


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a group: `path` begins with a slash, as aiohttp writes it.

    Before `handler` is called, the request is asked for `action` as our own routes are, so none
    can forget it. With None anybody gets an answer who may send requests at all: for what says
    nothing of jobs, such as whether the service is alive.
    """

    method: str
    path: str
    handler: Callable[[Caller], Awaitable[web.StreamResponse]]
    action: Action | None


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of a group that has none."""


@dataclass(frozen=True, slots=True)
class RouteGroup:
    """Routes of one kind, below a prefix of their own: those of another service, for example.

    `name` switches the group on, in ``compat.enabled``; its prefix is ``/NAME`` unless
    ``[compat.NAME]`` says another. `options` is a frozen dataclass with the other keys of that
    table; `routes` is called with one, and returns the routes. `token_headers` are headers in which
    clients of this kind send their token, besides ``Authorization: Bearer``; whether it is valid is
    decided where all tokens are. `refusal` puts a refusal into this kind's own words; without it
    they are problem documents. `runtimes` is called with the options too, and returns languages
    that the routes need, by their names, each as ``[runtimes.NAME]`` of config.toml has it; one
    that is configured with the same name takes its place.
    """

    name: str
    routes: Callable[[Any], Iterable[Route]]
    options: type = NoOptions
    token_headers: tuple[str, ...] = ()
    refusal: Words | None = None
    runtimes: Callable[[Any], Mapping[str, Mapping[str, Any]]] | None = None

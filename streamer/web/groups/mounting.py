"""Collect the groups of all plugins, check those that are switched on, and mount them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pluggy
from aiohttp import web
from msgspec.structs import replace

from streamer.config.compat import CompatConfig
from streamer.config.options import configured, did_you_mean
from streamer.config.runtimes import extended
from streamer.config.schema import Config
from streamer.errors import ConfigError, PluginError
from streamer.web.callers.access import ACTIONS, Access
from streamer.web.callers.carriers import TOKEN_HEADERS
from streamer.web.groups.caller import Caller, Desk
from streamer.web.groups.group import Route, RouteGroup
from streamer.web.refusals import REFUSAL

__all__ = ["Mounted", "chosen_groups", "mount", "with_runtimes"]

NAME: Final = re.compile("[a-z][a-z0-9_]*")
PREFIX: Final = re.compile("(?:/[A-Za-z0-9._~-]+)+")
HEADER: Final = re.compile("[A-Za-z0-9-]+")
RESERVED: Final = frozenset(CompatConfig.__struct_fields__)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A group that is switched on, with its prefix, its routes and its languages."""

    group: RouteGroup
    prefix: str
    routes: tuple[Route, ...]
    runtimes: Mapping[str, Mapping[str, Any]]


def chosen_groups(hook: pluggy.HookRelay, config: CompatConfig) -> Sequence[Mounted]:
    """Return the groups that the configuration switches on; without any no plugin is asked.

    Raises `PluginError` for a malformed group or a name given twice, `ConfigError` for an unknown
    name, an option that is unknown or has the wrong type, and prefixes that overlap.
    """
    if not config.enabled and not config.options:
        return ()
    groups = _collected(hook)
    for key, names in (("compat.enabled: ", config.enabled), ("compat.", config.options)):
        for name in names:
            if name not in groups:
                raise ConfigError(
                    f"{key}{name}: no plugin has routes of this name{did_you_mean(name, groups)}; "
                    f"known: {', '.join(sorted(groups)) or 'none'}"
                )
    chosen = [
        _mounted(groups[name], config.options.get(name, {}))
        for name in dict.fromkeys(config.enabled)
    ]
    for one in chosen:
        for other in chosen:
            if one is not other and f"{other.prefix}/".startswith(f"{one.prefix}/"):
                raise ConfigError(
                    f"compat.{other.group.name}.prefix: {other.prefix!r} is below that of "
                    f"{one.group.name}, {one.prefix!r}: give it another"
                )
    return chosen


def with_runtimes(config: Config, groups: Iterable[Mounted]) -> Config:
    """Return the configuration with the languages of groups; those that it has stay as they are.

    Raises `ConfigError` for one that is not valid.
    """
    tables = {
        name: table
        for group in groups
        for name, table in group.runtimes.items()
        if name not in config.runtimes
    }
    return replace(config, runtimes=extended(tables, config.runtimes)) if tables else config


def mount(app: web.Application, groups: Iterable[Mounted], desk: Desk) -> None:
    """Add the groups to our application, after its own routes.

    Raises `ConfigError` if a prefix begins as one of those does.
    """
    taken = {_first(resource.canonical) for resource in app.router.resources()} - {""}
    for one in groups:
        if _first(one.prefix) in taken:
            raise ConfigError(
                f"compat.{one.group.name}.prefix: {one.prefix!r}: /{_first(one.prefix)} is ours: "
                "take another"
            )
        below = web.Application()
        below[TOKEN_HEADERS] = one.group.token_headers
        if one.group.refusal is not None:
            below[REFUSAL] = one.group.refusal
        below.add_routes([_defined(route, desk) for route in one.routes])
        app.add_subapp(one.prefix, below)


def _defined(route: Route, desk: Desk) -> web.RouteDef:
    access: Access = desk.access

    async def handle(request: web.Request) -> web.StreamResponse:
        tenant = "" if route.action is None else access.require(request, route.action)
        return await route.handler(Caller(desk, request, tenant))

    return web.RouteDef(route.method, route.path, handle, {})


def _collected(hook: pluggy.HookRelay) -> dict[str, RouteGroup]:
    groups: dict[str, RouteGroup] = {}
    # pluggy calls the last registered plugin first; here the built-ins come first.
    for some in reversed(hook.streamer_routes()):
        if not isinstance(some, list | tuple):
            raise PluginError(f"streamer_routes returned {some!r}: return a list of RouteGroup")
        for group in some:
            if not isinstance(group, RouteGroup):
                raise PluginError(f"streamer_routes returned {group!r}, which is no RouteGroup")
            _check(group)
            if group.name in groups:
                raise PluginError(f"two groups of routes are named {group.name!r}: uninstall one")
            groups[group.name] = group
    return groups


def _check(group: RouteGroup) -> None:
    headers: object = group.token_headers
    where = f"the group of routes {group.name!r}"
    if not NAME.fullmatch(group.name):
        raise PluginError(f"{where}: the name is not of the form [a-z][a-z0-9_]*")
    if group.name in RESERVED:
        raise PluginError(f"{where}: compat.{group.name} is a setting: take another name")
    if isinstance(headers, str) or not all(map(HEADER.fullmatch, group.token_headers)):
        raise PluginError(f'{where}: token_headers is a tuple of names such as ("X-Auth-Token",)')


def _mounted(group: RouteGroup, table: Mapping[str, Any]) -> Mounted:
    options = {**table}
    prefix = str(options.pop("prefix", f"/{group.name}")).rstrip("/")
    if not PREFIX.fullmatch(prefix) or {".", ".."} & {*prefix.split("/")}:
        raise ConfigError(
            f"compat.{group.name}.prefix: {prefix!r}: write a path without a slash at its end, "
            f"such as /{group.name}"
        )
    given: Any = configured(group.options, options, f"compat.{group.name}")
    routes = (*group.routes(given),)
    for route in routes:
        one: object = route
        if not (isinstance(one, Route) and one.path.startswith("/")):
            raise PluginError(
                f"the group of routes {group.name!r}: {route!r} is no Route whose path begins "
                "with a slash"
            )
        if route.action is not None and route.action not in ACTIONS:
            raise PluginError(
                f"the group of routes {group.name!r}: {route.path} has the unknown action "
                f"{route.action!r}; known: {', '.join(ACTIONS)}"
            )
    return Mounted(group, prefix, routes, {} if group.runtimes is None else group.runtimes(given))


def _first(path: str) -> str:
    """Return the first part of a path."""
    return path.strip("/").partition("/")[0]

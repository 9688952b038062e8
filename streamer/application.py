"""Make the aiohttp application of a service, or mount it into a host's."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Middleware

from streamer.compose import ConfigLike, build
from streamer.jobs.jobs import Jobs
from streamer.web.app import SERVICE, SESSIONS, make_app

__all__ = ["create_app", "setup"]


def create_app(
    config: ConfigLike = None,
    *,
    plugins: Iterable[object] = (),
    middlewares: Iterable[Middleware] = (),
) -> web.Application:
    """Return a standalone application, or one that a host mounts with `add_subapp`.

    `config` is a `Config`, a nested mapping, or the path of a TOML file; the environment is not
    read. `middlewares` run inside ours. Raises `ConfigError`, `PluginError`. The sandbox is tested
    when the application starts, which raises `BackendUnavailable` if it does not work.
    """
    parts = build(config, plugins)
    return make_app(
        parts.config,
        parts.jobs,
        parts,
        parts.hook,
        parts.shares,
        parts.engine.rates,
        parts.measures,
        unconfined=parts.unconfined,
        middlewares=middlewares,
        groups=parts.groups,
    )


def setup(
    app: web.Application,
    config: ConfigLike = None,
    *,
    prefix: str = "/streamer",
    plugins: Iterable[object] = (),
    middlewares: Iterable[Middleware] = (),
) -> Jobs:
    """Mount the service into a host application below `prefix` and return it.

    Reads no environment, configures no logging, starts nothing before the host starts. The host's
    middlewares run around ours. Raises RuntimeError if called twice on one application, ValueError
    for a prefix that is empty or does not begin with a slash.
    """
    if not prefix.startswith("/"):
        raise ValueError(f'prefix = {prefix!r}: a prefix begins with a slash, such as "/streamer"')
    if not prefix.strip("/"):
        raise ValueError(f'prefix = {prefix!r}: name a folder, such as "/streamer"')
    if SERVICE in app:
        raise RuntimeError(
            "streamer.setup() was called on this application before; for a second mount use "
            "create_app() and add_subapp()"
        )
    mounted = create_app(config, plugins=plugins, middlewares=middlewares)
    app.add_subapp(prefix, mounted)
    app[SERVICE] = mounted[SERVICE]
    app[SESSIONS] = mounted[SESSIONS]
    return mounted[SERVICE]

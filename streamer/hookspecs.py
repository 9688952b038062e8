"""The hooks that a plugin may implement.

Hooks are plain functions: pluggy does not await. A plugin is found through the entry-point group
``aiohttp_streamer.plugins``, or passed as ``plugins=`` to `streamer.setup` and
`streamer.create_app`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.spi import hookspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from streamer.config.schema import Config
    from streamer.engine.interface import Engine, JobView
    from streamer.spi import Backend
    from streamer.web.callers.access import Action
    from streamer.web.groups.group import RouteGroup

__all__ = [
    "streamer_authorize",
    "streamer_backends",
    "streamer_engine",
    "streamer_job_finished",
    "streamer_routes",
]


@hookspec
def streamer_backends() -> Sequence[type[Backend]]:  # type: ignore[empty-body]
    """Return backend classes; those of all plugins are collected.

    If two have the same name the service does not start; the error names both modules.
    """


@hookspec(firstresult=True)
def streamer_engine(config: Config) -> Engine | None:
    """Return the engine for ``engine.url``, not started yet; None leaves it to the next plugin."""


@hookspec(firstresult=True)
def streamer_authorize(
    request: web.Request, action: Action, job: JobView | None
) -> bool | str | None:
    """Decide whether the request may do `action`, and as which tenant.

    Return a tenant's name to allow it; True is the tenant ``""``. False refuses (403). None leaves
    the decision to the next plugin, and is 401 if no plugin decides. `errors.Unauthorized` is 401
    with its message; anything else refuses and is logged. For a route of one job the hook is called
    twice: with `job` None, before the job is looked up, and with the job.
    """


@hookspec
def streamer_job_finished(job: JobView) -> None:
    """Be notified once of every finished job, without its files, variables and input.

    Called in the event loop, so start a task for what takes time. Exceptions are logged and have
    no effect.
    """


@hookspec
def streamer_routes() -> Sequence[RouteGroup]:  # type: ignore[empty-body]
    """Return groups of routes; those of all plugins are collected.

    A group is served below a prefix of its own if ``compat.enabled`` has its name; the hook is
    called only if that has any. If two have the same name the service does not start.
    """

"""Declare every hook a plugin may implement.

Hooks register; they run once, at start-up, and they are plain functions: pluggy
does not await. A plugin is found by the entry-point group ``aiohttp_streamer.plugins``
or passed as ``plugins=`` to `streamer.setup` and `streamer.create_app`.
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

__all__ = ["streamer_authorize", "streamer_backends", "streamer_engine", "streamer_job_finished"]


@hookspec
def streamer_backends() -> Sequence[type[Backend]]:  # type: ignore[empty-body]
    """Return backend classes; every plugin's are collected.

    A name given twice stops the start and names both modules.
    """


@hookspec(firstresult=True)
def streamer_engine(config: Config) -> Engine | None:
    """Return the engine for ``engine.url``, or None to leave it to the next plugin."""


@hookspec(firstresult=True)
def streamer_authorize(
    request: web.Request, action: Action, job: JobView | None
) -> bool | str | None:
    """Decide whether the request may do `action`, and as which tenant.

    A tenant's name allows it, and True as the tenant ``""``. False refuses (403), None leaves
    the decision to the next plugin and refuses if there is none (401), `errors.Unauthorized`
    is 401 with its message; anything else refuses and is logged. Of a job it is asked twice:
    with `job` None, before it is looked up, and with the job.
    """


@hookspec
def streamer_job_finished(job: JobView) -> None:
    """Hear of every finished job, once, without its files, variables and input.

    In the event loop, so begin what takes time as a task. An exception is logged and changes
    nothing.
    """

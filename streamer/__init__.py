"""Run programs in pluggable sandboxes and stream their output as Server-Sent Events.

In an aiohttp application::

    import streamer

    streamer.setup(app, {"limits": {"default": {"wall_time_s": 10}}}, prefix="/code")

Importing this package has no side effect; nothing starts before the application does. Each name is
imported on first use: a client does not need the server, and a command that is starting can be
interrupted at once.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes longer than all that is here

if TYPE_CHECKING:
    from streamer.application import create_app, setup
    from streamer.client import Client, ServiceProblem, SyncClient
    from streamer.config.load import load_config
    from streamer.config.schema import Config
    from streamer.engine.blobs import JobFile
    from streamer.engine.interface import JobView
    from streamer.jobs.job import Job
    from streamer.jobs.jobs import Jobs
    from streamer.jobs.languages import Language
    from streamer.model.events import Event
    from streamer.model.job import Case, JobSpec, Limits, SourceFile, TerminalSize
    from streamer.model.session import SessionSpec
    from streamer.model.webhook import Webhook
    from streamer.spi import hookimpl
    from streamer.web.app import get_service, get_sessions
    from streamer.web.callers.access import Action
    from streamer.web.groups.caller import Caller
    from streamer.web.groups.group import Route, RouteGroup
    from streamer.web.refusals import Refusal

__all__ = [
    "Action",
    "Caller",
    "Case",
    "Client",
    "Config",
    "Event",
    "Job",
    "JobFile",
    "JobSpec",
    "JobView",
    "Jobs",
    "Language",
    "Limits",
    "Refusal",
    "Route",
    "RouteGroup",
    "ServiceProblem",
    "SessionSpec",
    "SourceFile",
    "SyncClient",
    "TerminalSize",
    "Webhook",
    "create_app",
    "get_service",
    "get_sessions",
    "hookimpl",
    "load_config",
    "setup",
]

__version__ = "0.1.0"

_HOMES = {
    "Action": "streamer.web.callers.access",
    "Caller": "streamer.web.groups.caller",
    "Case": "streamer.model.job",
    "Client": "streamer.client",
    "Config": "streamer.config.schema",
    "Event": "streamer.model.events",
    "Job": "streamer.jobs.job",
    "JobFile": "streamer.engine.blobs",
    "JobSpec": "streamer.model.job",
    "JobView": "streamer.engine.interface",
    "Jobs": "streamer.jobs.jobs",
    "Language": "streamer.jobs.languages",
    "Limits": "streamer.model.job",
    "Refusal": "streamer.web.refusals",
    "Route": "streamer.web.groups.group",
    "RouteGroup": "streamer.web.groups.group",
    "ServiceProblem": "streamer.client",
    "SessionSpec": "streamer.model.session",
    "SourceFile": "streamer.model.job",
    "SyncClient": "streamer.client",
    "TerminalSize": "streamer.model.job",
    "Webhook": "streamer.model.webhook",
    "create_app": "streamer.application",
    "get_service": "streamer.web.app",
    "get_sessions": "streamer.web.app",
    "hookimpl": "streamer.spi",
    "load_config": "streamer.config.load",
    "setup": "streamer.application",
}
_PUBLIC_MODULES = ("client", "errors", "events", "spi", "sse")

if not TYPE_CHECKING:  # which would make any name one of ours

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415 - as above

        if name in _PUBLIC_MODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

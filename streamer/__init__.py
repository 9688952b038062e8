"""Run programs in pluggable sandboxes and stream their output as Server-Sent Events.

In an aiohttp application::

    import streamer

    streamer.setup(app, {"limits": {"default": {"wall_time_s": 10}}}, prefix="/code")

Importing this package has no side effect; nothing starts before the application does.
"""

from __future__ import annotations

from streamer.client import Client, ServiceProblem
from streamer.compose import create_app, get_service, get_sessions, setup
from streamer.config.load import load_config
from streamer.config.schema import Config
from streamer.eventlog.joblog import Event
from streamer.model.job import JobSpec, Limits, SourceFile
from streamer.spi import hookimpl

__all__ = [
    "Client",
    "Config",
    "Event",
    "JobSpec",
    "Limits",
    "ServiceProblem",
    "SourceFile",
    "create_app",
    "get_service",
    "get_sessions",
    "hookimpl",
    "load_config",
    "setup",
]

__version__ = "0.1.0"

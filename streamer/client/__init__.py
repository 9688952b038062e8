"""The client of a remote service: submit and follow jobs over HTTP.

Imports the model and the parser of event streams, nothing of the server; `streamer` and the
command line import it. The distribution aiohttp-streamer-client has it as `streamer_client`.
"""

from __future__ import annotations

from streamer.client.client import Client
from streamer.client.problem import ServiceProblem
from streamer.client.run import Run
from streamer.client.sessions import RemoteSession
from streamer.client.sync import SyncAttached, SyncClient, SyncRun, SyncSession
from streamer.client.terminal import Attached
from streamer.model.events import AnyEvent, Event
from streamer.model.job import Case, JobSpec, Limits, SourceFile, TerminalSize
from streamer.model.webhook import Webhook

__all__ = [
    "AnyEvent",
    "Attached",
    "Case",
    "Client",
    "Event",
    "JobSpec",
    "Limits",
    "RemoteSession",
    "Run",
    "ServiceProblem",
    "SourceFile",
    "SyncAttached",
    "SyncClient",
    "SyncRun",
    "SyncSession",
    "TerminalSize",
    "Webhook",
]

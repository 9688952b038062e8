"""The client of a remote service: the same verbs as a job has here, over HTTP.

Imports the model and the parser of event streams, nothing of the server.
"""

from __future__ import annotations

from streamer.client.client import Client
from streamer.client.problem import ServiceProblem

__all__ = ["Client", "ServiceProblem"]

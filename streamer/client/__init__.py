"""The client of a remote service: submit and follow jobs over HTTP.

Imports the model and the parser of event streams, nothing of the server; `streamer` and the
command line import it.
"""

from __future__ import annotations

from streamer.client.client import Client
from streamer.client.problem import ServiceProblem

__all__ = ["Client", "ServiceProblem"]

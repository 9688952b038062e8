"""Say what went wrong so that a model knows how to go on."""

from __future__ import annotations

from typing import Final

import aiohttp
from pydantic import ValidationError

from streamer.client import ServiceProblem
from streamer.errors import InvalidRequest, StreamerError

__all__ = ["FAILED", "Refused", "told"]

FAILED: Final = "the server has failed, which its log explains: tell the user"
MORE: Final = 5
"""How many faults of the arguments are told at once."""

REMEDIES: Final = {
    "unknown_language": "use one of the languages that the description of run lists",
    "queue_full": "too many programs wait: wait for one of yours, or stop it, and try again",
    "rate_limited": "your share is used up: wait for one of your programs, or stop it",
    "payload_too_large": "it is too large: send less, or let a program make the data",
    "shutting_down": "the service is shutting down: try again later",
    "conflict": "wait for the program that runs in this workspace, or stop it, and try again",
    "sandbox_unavailable": "the operator has to look: streamer doctor says what is wrong",
    "unauthorized": "the operator has to give this server a valid token",
    "forbidden": "this is not allowed here: do it in another way",
}


class Refused(Exception):
    """A call that cannot be done; the text is for the model."""


def told(error: Exception) -> str | None:
    """Return the text for the model; None for a failure that is ours."""
    if isinstance(error, ValidationError):
        return _arguments(error)
    if isinstance(error, ServiceProblem):
        return _refusal(error)
    if isinstance(error, InvalidRequest):
        return f"{error.message}: use another path, relative to the workspace and without .."
    if isinstance(error, TimeoutError | aiohttp.ClientError):
        return "the service does not answer: try again later; if that does not help, tell the user"
    if isinstance(error, Refused | StreamerError):
        return str(error)
    return None


def _refusal(problem: ServiceProblem) -> str:
    where = f" ({problem.path})" if problem.path else ""
    remedy = f": {REMEDIES[problem.code]}" if problem.code in REMEDIES else ""
    again = f"; try again after {problem.retry_after:.0f} s" if problem.retry_after else ""
    return f"{problem.message}{where}{remedy}{again}"


def _arguments(error: ValidationError) -> str:
    faults = []
    found = error.errors(include_url=False, include_input=False, include_context=False)
    for fault in found[:MORE]:
        where = ".".join(str(part) for part in fault["loc"]) or "arguments"
        if fault["type"] == "extra_forbidden":
            faults.append(f"{where}: there is no such argument")
        else:
            faults.append(f"{where}: {fault['msg']}")
    more = f"; and {len(found) - MORE} more" if len(found) > MORE else ""
    return f"wrong arguments: {'; '.join(faults)}{more}. Correct them and call again"

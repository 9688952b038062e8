"""Refusals in other words than ours: routes of a group may answer as another service does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from streamer.web.answers import Problem

__all__ = ["REFUSAL", "Refusal", "Words", "worded"]

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused, or failed: what may be told of it.

    `status` is that of our own routes, `code` one of docs/http.md, `message` for people; it has
    nothing of the host in it.
    """

    status: int
    code: str
    message: str


Words = Callable[[Refusal], web.Response]
REFUSAL: Final[web.AppKey[Words]] = web.AppKey("streamer-refusal")
"""In the application of a group: puts a refusal into its own words."""


def worded(request: web.Request, response: web.Response, said: Problem) -> web.Response:
    """Return the answer in the words of the group that the route is of, with all its headers."""
    apps = request.match_info.apps
    words: Words | None = apps[-1].get(REFUSAL) if apps else None
    if words is None:
        return response
    try:
        found = words(Refusal(said.status, said.code, said.detail))
    except Exception:
        log.exception("the words for a refusal failed")
        return response
    for name, value in response.headers.items():
        if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH):
            found.headers.add(name, value)
    return found

"""What the log says of the path of a request."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

__all__ = ["job_of", "logged_path"]

FILE: Final = re.compile("(/(?:jobs|sessions)/[^/]+/files/).+")
JOB: Final = re.compile("/api/(?:jobs|stream)/([0-9a-z]{26})(?:/|$)")


def logged_path(request: web.BaseRequest) -> str:
    """Return the path as it was sent, since a decoded one may contain a newline.

    Without the query, which may hold a token, and with ``*`` for the name of a file.
    """
    return FILE.sub(r"\1*", request.rel_url.raw_path)


def job_of(request: web.BaseRequest) -> str | None:
    """Return the id of the job that a path names."""
    found = JOB.search(request.rel_url.raw_path)
    return None if found is None else found[1]

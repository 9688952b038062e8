"""Refuse requests that a page of another site makes a browser send."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from streamer.config.schema import Config
from streamer.errors import Forbidden

__all__ = ["check_origin"]

OWN_SITES: Final = ("same-origin", "none")
"""Values of Sec-Fetch-Site for requests by a page of the same origin, or by the user."""


def check_origin(request: web.Request, config: Config) -> str | None:
    """Return the allowed foreign origin of a request, or None if it has none.

    A page of another site can make a browser send requests to a service on its user's own machine
    or network, so foreign origins must be configured. The browser knows best which are foreign: a
    proxy may replace the Host of the page. Raises `Forbidden`.
    """
    origin = request.headers.get("Origin")
    host = request.headers.get("Host")
    # No page can set or change it. Browsers send it only over HTTPS and to loopback addresses,
    # never to a name that an attacker resolves to one (Fetch Metadata, section 3).
    site = request.headers.get("Sec-Fetch-Site")
    allowed = config.server.allowed_origins
    if origin is None:
        foreign = bool(site) and site not in OWN_SITES and not _follows_a_link(request)
        if foreign and "*" not in allowed:
            raise Forbidden(
                "requests from pages of other sites without an Origin are not allowed "
                "(server.allowed_origins)"
            )
        return None
    if origin in (f"http://{host}", f"https://{host}") or site == "same-origin":
        return None
    if origin in allowed or "*" in allowed:
        return origin
    raise Forbidden(f"requests from {origin!r} are not allowed (server.allowed_origins)")


def _follows_a_link(request: web.Request) -> bool:
    """Tell whether the user follows a link; the page with the link cannot read the response."""
    return request.method in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Mode") == "navigate"

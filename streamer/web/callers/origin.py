"""Refuse what a page of another site has a browser send."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from streamer.config.schema import Config
from streamer.errors import Forbidden

__all__ = ["check_origin"]

OWN_SITES: Final = ("same-origin", "none")
"""What a browser says of a request by a page of the same origin, or by its user."""


def check_origin(request: web.Request, config: Config) -> str | None:
    """Return the allowed foreign origin of a request, or None if it has none.

    A page of another site can make a browser send requests to a service on its user's own
    machine or network, so a foreign origin must be configured. What is foreign the browser knows
    best: a proxy may put another Host in the place of the one that the page was asked of. Raises
    `Forbidden`.
    """
    origin = request.headers.get("Origin")
    host = request.headers.get("Host")
    # No page can set or change it. Browsers send it over HTTPS and to loopback addresses only,
    # never to a name that an attacker has bound to one (Fetch Metadata, section 3).
    site = request.headers.get("Sec-Fetch-Site")
    allowed = config.server.allowed_origins
    if origin is None:
        foreign = bool(site) and site not in OWN_SITES and not _follows_a_link(request)
        if foreign and "*" not in allowed:
            raise Forbidden(
                "requests of pages of other sites without an Origin are not allowed "
                "(server.allowed_origins)"
            )
        return None
    if origin in (f"http://{host}", f"https://{host}") or site == "same-origin":
        return None
    if origin in allowed or "*" in allowed:
        return origin
    raise Forbidden(f"requests from {origin!r} are not allowed (server.allowed_origins)")


def _follows_a_link(request: web.Request) -> bool:
    """Tell whether the user goes to an address; the page with the link sees nothing of it."""
    return request.method in ("GET", "HEAD") and request.headers.get("Sec-Fetch-Mode") == "navigate"

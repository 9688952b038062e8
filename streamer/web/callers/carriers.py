"""Where a request carries its token: groups of routes may have headers of their own for it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

__all__ = ["TOKEN_HEADERS", "bearer", "own_headers", "token_of"]

BEARER: Final = "bearer "
TOKEN_HEADERS: Final = web.AppKey("streamer-token-headers", tuple[str, ...])
"""In the application of a group: headers whose whole value is a token."""


def bearer(request: web.Request) -> str:
    """Return the token in ``Authorization: Bearer``, or ``""``."""
    header = request.headers.get("Authorization", "")
    return header[len(BEARER) :].strip() if header.lower().startswith(BEARER) else ""


def own_headers(request: web.Request) -> tuple[str, ...]:
    """Return the headers that the group of the request's route has for tokens."""
    apps = request.match_info.apps
    return apps[-1].get(TOKEN_HEADERS, ()) if apps else ()


def token_of(request: web.Request) -> str:
    """Return the token of a request, or ``""``."""
    token = bearer(request)
    if token:
        return token
    for name in own_headers(request):
        if value := request.headers.get(name, "").strip():
            return value
    return ""

"""Judge whether a request without credentials comes from this machine."""

from __future__ import annotations

import functools
import os
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from streamer.config.schema import is_loopback
from streamer.web.callers.connection import account, is_local

__all__ = ["REMEDY", "strangeness"]

REMEDY: Final = (
    "add auth.tokens_file or [[auth.tokens]], or a plugin with the hook streamer_authorize; or set "
    "auth.anonymous = true to admit everybody"
)
PROXY_HEADERS: Final = frozenset(
    (
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-envoy-external-address",
        "true-client-ip",
        "cf-connecting-ip",
    )
)
"""Headers that proxies add, in lower case, besides those that begin with ``x-forwarded-``."""
MAX_HOST_CHARS: Final = 255
"""A name in the DNS is no longer (RFC 1035, 2.3.4)."""


def strangeness(request: web.Request, *, own_account_only: bool) -> str:
    """Return why a request may not be from this machine's user, with the remedy, or ``""``.

    With `own_account_only` that user must be the service's own.
    """
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    if sock is None or not is_local(sock):
        return f"it came over the network: {REMEDY}"
    if not _names_loopback(request):
        # A page can make its own host name resolve to this machine (DNS rebinding).
        return f"its Host is not localhost: use http://127.0.0.1, or {REMEDY}"
    if _came_through_a_proxy(request):
        return f"it came through a proxy, so its sender may be anywhere: {REMEDY}"
    if own_account_only and account(sock) != os.geteuid():
        return (
            "it is not from this service's own account, and programs can run without "
            f"isolation or with the host's network: {REMEDY}"
        )
    return ""


def _names_loopback(request: web.Request) -> bool:
    # Not `request.host`, which is this machine's name if the header is missing.
    hosts = request.headers.getall("Host", [])
    return len(hosts) == 1 and len(hosts[0]) <= MAX_HOST_CHARS and _is_loopback_host(hosts[0])


@functools.lru_cache(maxsize=64)
def _is_loopback_host(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _came_through_a_proxy(request: web.Request) -> bool:
    """Tell whether a request came through a proxy, so that its sender may be anywhere.

    Some proxies add no header. nginx uses HTTP/1.0 by default, and no browser does.
    """
    if request.version < (1, 1):
        return True
    for name in request.headers:
        lower = name.lower()
        if lower in PROXY_HEADERS or lower.startswith("x-forwarded-"):
            return True
    return False

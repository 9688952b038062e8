"""Decide who a request comes from and what it may do: the one place that asks.

The hook `streamer_authorize` decides; an embedding application fills it. Without a
plugin's answer the configured tokens do, and without tokens everybody who can reach the
service is one and the same tenant.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final
from urllib.parse import urlsplit

import pluggy
from aiohttp import web

from streamer.config import Config, is_loopback
from streamer.engine import JobView
from streamer.errors import Forbidden, Unauthorized, UnknownJob

__all__ = ["Access", "check_origin"]

BEARER: Final = "bearer "


class Access:
    """The access rules of one application."""

    def __init__(self, config: Config, hook: pluggy.HookRelay) -> None:
        self._tokens = {token.sha256.lower(): token.tenant for token in config.auth.tokens}
        self._hook = hook

    def require(self, request: web.Request, action: str, job: JobView | None = None) -> str:
        """Return the tenant in whose name the request may do `action`.

        Raises `Unauthorized` or `Forbidden`, and `UnknownJob` for another tenant's job, so
        that nobody learns which jobs exist.
        """
        decision = self._hook.streamer_authorize(request=request, action=action, job=job)
        if decision is False:
            raise Forbidden(f"you may not {action}")
        tenant = decision if isinstance(decision, str) else ""
        if decision is None and self._tokens:
            tenant = self._tenant_of_token(request)
        if job is not None and job.tenant != tenant:
            raise UnknownJob(f"there is no job {job.job.job_id!r}")
        return tenant

    def _tenant_of_token(self, request: web.Request) -> str:
        header = request.headers.get("Authorization", "")
        token = header[len(BEARER) :].strip() if header.lower().startswith(BEARER) else ""
        if not token and request.method == "GET":
            # EventSource cannot set headers.
            token = request.query.get("access_token", "")
        if not token:
            raise Unauthorized("send a token: Authorization: Bearer TOKEN")
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
        for known, tenant in self._tokens.items():
            if hmac.compare_digest(known, digest):
                return tenant
        raise Unauthorized("the token is not known")


def check_origin(request: web.Request, config: Config) -> str | None:
    """Return the allowed foreign origin of a request, or None if it has none.

    A page of another site can make a browser send requests to a service on its
    user's own machine, and by DNS rebinding even under a name of its own. So a foreign
    Origin must be configured, and a service on loopback answers to loopback names only.
    What is foreign the browser knows best: a proxy may put another Host in the place of the
    one that the page was asked of. Raises `Forbidden`.
    """
    try:
        host = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        raise Forbidden("the Host header is not a host name or address") from None
    allowed = config.server.allowed_origins
    allowed_hosts = {urlsplit(origin).hostname for origin in allowed}
    if is_loopback(config.server.host) and not is_loopback(host) and host not in allowed_hosts:
        raise Forbidden(
            f"the service listens on loopback and does not answer to the name {host!r}; "
            "if it should, add its address to server.allowed_origins"
        )
    origin = request.headers.get("Origin")
    if origin is None or origin in (f"http://{request.host}", f"https://{request.host}"):
        return None
    # No page can set or change it. Browsers send it over HTTPS and to loopback addresses only,
    # never to a name that an attacker has bound to one (Fetch Metadata, section 3).
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return None
    if origin in allowed or "*" in allowed:
        return origin
    raise Forbidden(f"requests from {origin!r} are not allowed (server.allowed_origins)")

"""Authorization: who a request comes from, and what it may do. All routes use it.

A plugin's hook `streamer_authorize` decides if there is one, otherwise the configured tokens.
Without either, nobody is known: requests are then accepted only from this machine, or from
everybody if the configuration says so.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import logging
import os
import time
from collections.abc import Callable
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

import pluggy
from aiohttp import web

from streamer.config.schema import Config, is_loopback
from streamer.engine.interface import JobView
from streamer.errors import CallerError, CapacityError, Forbidden, Unauthorized, UnknownJob
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.web.callers.connection import account, is_local

__all__ = ["ACTIONS", "CLAIM", "METRICS_ROUTE", "TENANT", "Access", "Action"]

log: Final = logging.getLogger(__name__)

Action = Literal[
    "submit", "read", "cancel", "write", "signal", "list", "viewers", "upload", "metrics"
]
"""The actions; docs/embedding.md lists the routes that need them."""

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

BEARER: Final = "bearer "
METRICS_ROUTE: Final = "streamer-metrics"
TENANT: Final = web.RequestKey("streamer-tenant", str)
"""The tenant of a request."""
CLAIM: Final[web.RequestKey[Callable[[str], None]]] = web.RequestKey("streamer-claim")
"""Counts the request's connection for a tenant. Raises `RateLimited` at its share."""
SAY_AGAIN_S: Final = 60.0
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
ADMITTED: Final = web.RequestKey("streamer-admitted", bool)
"""Set once a request was found to come from this machine, which does not change."""

NOT_ALLOWED: Final = "you may not do this ({})"
REMEDY: Final = (
    "add [[auth.tokens]], or a plugin with the hook streamer_authorize; or set auth.anonymous = "
    "true to admit everybody"
)


class Access:
    def __init__(self, config: Config, hook: pluggy.HookRelay, *, unconfined: bool) -> None:
        """`unconfined` means that callers may use a sandbox without isolation, or commands."""
        self._tokens = {token.sha256.lower(): token.tenant for token in config.auth.tokens}
        self._hook = hook if hook.streamer_authorize.get_hookimpls() else None
        self._anonymous = config.auth.anonymous
        # A job with the host's network is on loopback too; as root it has another account.
        self._own_account_only = unconfined or config.sandbox.network == "open"
        self._unconfined = unconfined
        self._scraper = config.metrics.token_sha256.lower()
        self._said: dict[str, float] = {}

    @property
    def tells_callers_apart(self) -> bool:
        """Whether there may be more than one tenant."""
        return self._hook is not None or len({*self._tokens.values()}) > 1

    @property
    def knows_callers(self) -> bool:
        """Whether a hook or tokens identify callers."""
        return self._hook is not None or bool(self._tokens)

    def announce(self) -> None:
        """Log who will be admitted, if that may be unexpected."""
        if self._hook is not None:
            ignored = [
                key
                for key, given in (("tokens", self._tokens), ("anonymous", self._anonymous))
                if given
            ]
            if ignored:
                log.warning(
                    "auth.%s has no effect: a plugin authorizes requests (streamer_authorize)",
                    " and auth.".join(ignored),
                )
        elif self._anonymous and self._unconfined:
            log.warning(
                "auth.anonymous: everybody who reaches this service may run programs here, and "
                "without isolation (sandbox.backend, sandbox.allow, sandbox.allow_command)"
            )
        elif self._anonymous:
            log.warning("auth.anonymous: everybody who reaches this service may run programs here")

    def announce_address(self, host: str) -> None:
        """Log if the service listens for other machines, but admits none of them."""
        if not (self.knows_callers or self._anonymous or is_loopback(host)):
            log.warning(
                "listening on %s, but without tokens or a plugin that identifies callers only "
                "requests from this machine to http://127.0.0.1 are accepted: %s",
                host,
                REMEDY,
            )

    def admit(self, request: web.Request) -> None:
        """Refuse requests that do not come from this machine. Raises `Unauthorized`.

        If callers are known this does nothing: each route uses `require` or `job`.
        """
        if self.knows_callers or self._anonymous or ADMITTED in request:
            return
        reason = self._strangeness(request)
        if not reason:
            request[ADMITTED] = True
            return
        now = time.monotonic()
        # Logged only now and then: strangers must not fill the log.
        if now - self._said.get(reason, -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[reason] = now
            log.warning("a request without credentials was refused: %s", reason)
        raise Unauthorized(
            "this service accepts requests without credentials from its own machine only; its "
            "log tells the operator what to do"
        )

    def require(self, request: web.Request, action: Action) -> str:
        """Return the tenant as which the request may do `action`.

        Raises `Unauthorized`, `Forbidden`, or what the hook raises; `RateLimited` if the tenant
        has used up its share of the connections.
        """
        tenant = self._require(request, action)
        request[TENANT] = tenant
        if (claim := request.get(CLAIM)) is not None:
            claim(tenant)
        return tenant

    def is_scraper(self, request: web.Request) -> bool:
        """Tell whether a request for the metrics has their separate token."""
        if not self._scraper or request.match_info.route.name != METRICS_ROUTE:
            return False
        return hmac.compare_digest(_digest(_bearer(request)), self._scraper)

    def _require(self, request: web.Request, action: Action) -> str:
        if action == "metrics" and self.is_scraper(request):
            return ""
        if self._hook is not None:
            return self._asked(self._hook, request, action, None)
        if self._tokens:
            return self._tenant_of_token(request)
        self.admit(request)
        return ""

    async def job(self, request: web.Request, action: Action, job: Job) -> JobView:
        """Return a snapshot of a job if the request may do `action` with it.

        Unknown callers are refused before the job is looked up, and another tenant's job looks
        like an unknown id: nobody learns which jobs exist. Raises what `require` raises, and
        `UnknownJob`.
        """
        tenant = self.require(request, action)
        view = await job.view()
        theirs = view.tenant == tenant
        if self._hook is not None:
            try:
                theirs = self._asked(self._hook, request, action, view) == view.tenant
            except (CallerError, CapacityError):
                if theirs:
                    raise
        if not theirs:
            raise UnknownJob(f"there is no job {job.id!r}")
        return view

    async def named(self, request: web.Request, action: Action, jobs: Jobs) -> tuple[Job, JobView]:
        """Return the job that a route names, as `job` does, with a handle on it."""
        job = jobs.job(request.match_info["job_id"])
        return job, await self.job(request, action, job)

    async def may(self, request: web.Request, action: Action, job: Job) -> bool:
        """Tell whether the caller may do `action` with a job, without refusing the request."""
        if not self.knows_callers and self._anonymous:
            return False
        try:
            await self.job(request, action, job)
        except (CallerError, CapacityError):
            return False
        return True

    def _asked(
        self, hook: pluggy.HookRelay, request: web.Request, action: Action, job: JobView | None
    ) -> str:
        """Return the tenant from the hook; any result but a name or True is a refusal."""
        try:
            answer = hook.streamer_authorize(request=request, action=action, job=job)
        except (CallerError, CapacityError):
            raise
        except web.HTTPUnauthorized as error:
            challenge = error.headers.get("WWW-Authenticate")
            raise Unauthorized(error.text or error.reason, challenge=challenge) from None
        except web.HTTPForbidden as error:
            raise Forbidden(error.text or error.reason) from None
        except Exception:
            log.exception("streamer_authorize failed, so %s is refused", action)
            raise Forbidden(NOT_ALLOWED.format(action)) from None
        if answer is True:
            return ""
        if isinstance(answer, str) and answer:
            return answer
        if answer is None:
            raise Unauthorized("log in first", challenge=None)
        if answer is not False:
            if inspect.iscoroutine(answer):
                answer.close()
            log.error(
                "streamer_authorize returned %s, so %s is refused: return True, a tenant's name, "
                "or False",
                "an empty name" if answer == "" else f"a value of type {type(answer).__name__}",
                action,
            )
        raise Forbidden(NOT_ALLOWED.format(action))

    def _strangeness(self, request: web.Request) -> str:
        """Return why a request may not be from this machine's user, with the remedy, or ``""``."""
        sock = None if request.transport is None else request.transport.get_extra_info("socket")
        if sock is None or not is_local(sock):
            return f"it came over the network: {REMEDY}"
        if not _names_loopback(request):
            # A page can make its own host name resolve to this machine (DNS rebinding).
            return f"its Host is not localhost: use http://127.0.0.1, or {REMEDY}"
        if _came_through_a_proxy(request):
            return f"it came through a proxy, so its sender may be anywhere: {REMEDY}"
        if self._own_account_only and account(sock) != os.geteuid():
            return (
                "it is not from this service's own account, and programs can run without "
                f"isolation or with the host's network: {REMEDY}"
            )
        return ""

    def _tenant_of_token(self, request: web.Request) -> str:
        token = _bearer(request)
        if not token and request.method == "GET":
            # EventSource cannot set headers.
            token = request.query.get("access_token", "")
        if not token:
            raise Unauthorized("send a token: Authorization: Bearer TOKEN")
        digest = _digest(token)
        for known, tenant in self._tokens.items():
            if hmac.compare_digest(known, digest):
                return tenant
        raise Unauthorized("unknown token")


def _bearer(request: web.Request) -> str:
    header = request.headers.get("Authorization", "")
    return header[len(BEARER) :].strip() if header.lower().startswith(BEARER) else ""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


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

"""Authorization: who a request comes from, and what it may do. All routes use it.

A plugin's hook `streamer_authorize` decides if there is one, otherwise the configured tokens.
Without either, nobody is known: requests are then accepted only from this machine, or from
everybody if the configuration says so.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, get_args

import pluggy
from aiohttp import web

from streamer.config.schema import Config, is_loopback
from streamer.config.tokens import is_generated
from streamer.engine.interface import JobView
from streamer.errors import CallerError, CapacityError, Forbidden, Unauthorized, UnknownJob
from streamer.jobs.job import Job
from streamer.jobs.jobs import Jobs
from streamer.model.scopes import Scope
from streamer.web.callers.carriers import bearer, token_of
from streamer.web.callers.grants import Grant, Grants
from streamer.web.callers.local import REMEDY, strangeness
from streamer.web.callers.tokens import Tokens

__all__ = [
    "ACTIONS",
    "CLAIM",
    "GRANT",
    "GRANTED",
    "GRANTED_FILES",
    "METRICS_ROUTE",
    "TENANT",
    "WRONG_TOKEN",
    "Access",
    "Action",
]

log: Final = logging.getLogger(__name__)

Action = Literal[
    "submit",
    "read",
    "cancel",
    "write",
    "signal",
    "list",
    "viewers",
    "upload",
    "metrics",
    "grant",
]
"""The actions; docs/embedding.md lists the routes that need them."""

ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

NEEDS: Final[Mapping[Action, Scope]] = {
    "submit": "run",
    "read": "read",
    "cancel": "run",
    "write": "run",
    "signal": "run",
    "list": "read",
    "viewers": "run",
    "upload": "upload",
    "metrics": "metrics",
    "grant": "run",
}
"""The scope of a token that each action needs."""

METRICS_ROUTE: Final = "streamer-metrics"
TENANT: Final = web.RequestKey("streamer-tenant", str)
"""The tenant of a request."""
CLAIM: Final[web.RequestKey[Callable[[str], None]]] = web.RequestKey("streamer-claim")
"""Counts the request's connection for a tenant. Raises `RateLimited` at its share."""
GRANTED: Final = frozenset(("streamer-job", "streamer-stream", "streamer-output", "streamer-cast"))
"""The routes that a grant opens."""
GRANTED_FILES: Final = frozenset(("streamer-files", "streamer-file"))
"""Those that it opens too if it is for the files."""
GRANT: Final = web.RequestKey("streamer-grant", Grant)
"""The grant of a request, if it has one."""
SAY_AGAIN_S: Final = 60.0
WRONG_TOKEN: Final = web.RequestKey("streamer-wrong-token", bool)
"""Set for a request with a token that is not valid, and may be a guess."""
ADMITTED: Final = web.RequestKey("streamer-admitted", bool)
"""Set once a request was found to come from this machine, which does not change."""

NOT_ALLOWED: Final = "you may not do this ({})"


class Access:
    def __init__(
        self,
        config: Config,
        hook: pluggy.HookRelay,
        grants: Grants,
        check_guesses: Callable[[web.Request], None],
        *,
        unconfined: bool,
    ) -> None:
        """`unconfined` means that callers may use a sandbox without isolation, or commands.

        `check_guesses` refuses who has sent too many wrong tokens, before another one is tried.
        """
        self.grants = grants
        self._check_guesses = check_guesses
        self._auth = config.auth
        self._tokens = Tokens(config.auth)
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
        return self._hook is not None or self._auth.tells_apart

    @property
    def knows_callers(self) -> bool:
        """Whether a hook or tokens identify callers."""
        return self._hook is not None or self._auth.has_tokens

    def announce(self) -> None:
        """Log who will be admitted, if that may be unexpected."""
        if self._hook is not None:
            ignored = [
                key
                for key, given in (
                    ("tokens", self._auth.tokens),
                    ("tokens_file", self._auth.tokens_file),
                    ("anonymous", self._anonymous),
                )
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
        self._announce_tenants()

    def _announce_tenants(self) -> None:
        """Log which bounds are of no tenant, as if its name was misspelt."""
        if self._hook is not None:
            return
        # Without tokens all callers are one tenant without a name.
        known = self._tokens.tenants if self._auth.has_tokens else {""}
        for name in sorted(self._auth.tenants.keys() - known):
            log.warning("auth.tenants: no token has the tenant %r, so its bounds hold nobody", name)

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
        reason = strangeness(request, own_account_only=self._own_account_only)
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

    async def look(self, request: web.Request) -> None:
        """Notice which tokens were created or revoked, before a request that may have one."""
        if self._hook is None and (token_of(request) or request.query_string):
            await self._tokens.look()

    def require(self, request: web.Request, action: Action) -> str:
        """Return the tenant as which the request may do `action`.

        Raises `Unauthorized`, `Forbidden`, or what the hook raises; `RateLimited` if the tenant
        has used up its share of the connections.
        """
        tenant = self._require(request, action)
        _count(request, tenant)
        return tenant

    async def granted(self, request: web.Request) -> Grant | None:
        """Return the grant of a request for a route that grants open; None if it has none.

        Such a request has credentials, so it may come from anywhere. Raises `Unauthorized` if the
        grant does not open what is asked for, whoever else the caller may be.
        """
        name = request.match_info.route.name or ""
        if not request.query_string or name not in GRANTED | GRANTED_FILES:
            return None
        texts = request.query.getall("grant", [])
        if not texts or request.method not in ("GET", "HEAD"):
            return None
        found = None
        if len(texts) == 1:
            found = await self.grants.opened(texts[0], request.match_info["job_id"])
        if found is None or (name in GRANTED_FILES and not found.files):
            raise Unauthorized("the grant has expired, or does not open this", challenge=None)
        request[GRANT] = found
        return found

    def is_scraper(self, request: web.Request) -> bool:
        """Tell whether a request for the metrics has their separate token."""
        if not self._scraper or request.match_info.route.name != METRICS_ROUTE:
            return False
        token = bearer(request)
        if not token:
            return False
        self._check_guess(request, token)
        if hmac.compare_digest(_digest(token), self._scraper):
            return True
        _note_guess(request, token)
        return False

    def _check_guess(self, request: web.Request, token: str) -> None:
        """Raise `RateLimited` if the request may not try another token that may be a guess."""
        if not is_generated(token):
            self._check_guesses(request)

    def _require(self, request: web.Request, action: Action) -> str:
        if action == "metrics" and self.is_scraper(request):
            return ""
        if self._hook is not None:
            return self._asked(self._hook, request, action, None)
        if self._auth.has_tokens:
            return self._tenant_of_token(request, NEEDS[action])
        self.admit(request)
        return ""

    async def job(self, request: web.Request, action: Action, job: Job) -> JobView:
        """Return a snapshot of a job if the request may do `action` with it.

        Unknown callers are refused before the job is looked up, and another tenant's job looks
        like an unknown id: nobody learns which jobs exist. Raises what `require` raises, and
        `UnknownJob`.

        A grant stands for all this: whoever made it was allowed to.
        """
        grant = request.get(GRANT)
        if grant is not None and action == "read" and grant.job_id == job.id:
            granted = await job.view()
            _count(request, granted.tenant)
            return granted
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

    def _tenant_of_token(self, request: web.Request, needed: Scope) -> str:
        token = token_of(request)
        if not token and request.method == "GET":
            # EventSource cannot set headers.
            token = request.query.get("access_token", "")
        if not token:
            raise Unauthorized("send a token: Authorization: Bearer TOKEN")
        self._check_guess(request, token)
        found = self._tokens.find(token)
        if found is None:
            _note_guess(request, token)
            raise Unauthorized("unknown token")
        if found.expired:
            raise Unauthorized("the token has expired")
        if needed not in found.scopes:
            has = ", ".join(sorted(found.scopes))
            raise Forbidden(f"the token has no scope {needed}, which this needs; it has: {has}")
        return found.tenant


def _count(request: web.Request, tenant: str) -> None:
    """Record the tenant of a request, for whom its connection counts. Raises `RateLimited`."""
    request[TENANT] = tenant
    if (claim := request.get(CLAIM)) is not None:
        claim(tenant)


def _note_guess(request: web.Request, token: str) -> None:
    # A token that `streamer token` has made is no guess: it was revoked.
    if not is_generated(token):
        request[WRONG_TOKEN] = True


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()

"""Create the web application: routes, middlewares, and their state."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Final, Protocol, TypeVar

import pluggy
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from streamer.bounded import ends_in
from streamer.config.schema import Config
from streamer.config.shares import Shares
from streamer.engine.measures import JobMeasures
from streamer.engine.rates import Rates
from streamer.errors import NotFound, Unauthorized
from streamer.jobs.jobs import Jobs
from streamer.jobs.transcript import Transcripts
from streamer.jobs.webhooks.abandoned import Abandoned
from streamer.jobs.webhooks.deliveries import Deliveries
from streamer.jobs.webhooks.target import Targets
from streamer.sse.response import StreamOptions
from streamer.sse.sessionmap import SessionMap
from streamer.web.batch import BatchHandlers
from streamer.web.bodies import Bodies
from streamer.web.callers.access import WRONG_TOKEN, Access
from streamer.web.callers.address import client_address
from streamer.web.callers.carriers import own_headers
from streamer.web.callers.grants import Grants, closing_at_expiry
from streamer.web.callers.origin import check_origin
from streamer.web.documents import large_documents
from streamer.web.files import FileHandlers
from streamer.web.grants import GrantHandlers
from streamer.web.groups.caller import Desk
from streamer.web.groups.mounting import Mounted, mount
from streamer.web.groups.places import Places
from streamer.web.info import InfoHandlers, OwnWorker
from streamer.web.jobs import JobHandlers
from streamer.web.operations.service import OPEN_ROUTES
from streamer.web.page import page_routes
from streamer.web.parameters import CREDENTIALS, Handler
from streamer.web.posting import Poster
from streamer.web.problems import problems
from streamer.web.projects import ProjectHandlers
from streamer.web.rates import FailedLogins, RequestRates, send_rates
from streamer.web.reference.handlers import ReferenceHandlers
from streamer.web.sessions import SessionHandlers
from streamer.web.siblings import TOLD
from streamer.web.streams import StreamHandlers
from streamer.web.unread import CancelUnread

__all__ = [
    "ACCESS",
    "DELIVERIES",
    "LIFETIME",
    "SERVICE",
    "SESSIONS",
    "Lifetime",
    "get_service",
    "get_sessions",
    "make_app",
]

T = TypeVar("T")


class Lifetime(OwnWorker, Protocol):
    """The parts of the service that start and stop with the application."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def drain(self, timeout_s: float) -> None:
        """Accept no more jobs, and give the running ones `timeout_s`; every log ends."""

    def hurry(self) -> None:
        """End the waiting time of a running `drain`."""

    @property
    def node(self) -> str:
        """The name of this process in an engine that tells processes apart."""

    async def node_gone(self, node: str) -> None:
        """Tell the engine that a process has ended, with all that it ran."""


SERVICE: Final = web.AppKey("streamer-service", Jobs)
SESSIONS: Final = web.AppKey("streamer-sessions", SessionMap)
ACCESS: Final = web.AppKey("streamer-access", Access)
DELIVERIES: Final = web.AppKey("streamer-deliveries", Deliveries)
LIFETIME: Final[web.AppKey[Lifetime]] = web.AppKey("streamer-lifetime")
CORS: Final = web.RequestKey("streamer-cors", dict[str, str])
ALLOWED: Final = "Access-Control-Allow-Headers"
CORS_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    ALLOWED: (
        "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, If-None-Match, "
        "If-Range, Last-Event-ID, Prefer, Range, traceparent"
    ),
    "Access-Control-Expose-Headers": (
        "Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Location, "
        "Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Job-Id"
    ),
    "Access-Control-Max-Age": "600",
}


END_ARRIVES_S: Final = 1.0
"""How long to wait for the last events of jobs from an engine that several processes share."""


def make_app(
    config: Config,
    jobs: Jobs,
    lifetime: Lifetime,
    hook: pluggy.HookRelay,
    shares: Shares,
    rates: Rates,
    measures: JobMeasures,
    *,
    unconfined: bool,
    middlewares: Iterable[Middleware] = (),
    groups: Iterable[Mounted] = (),
) -> web.Application:
    """Return an application that serves `jobs`; `lifetime` starts and stops with it.

    That of a worker says only how this process is.
    `unconfined` means that callers may use a sandbox without isolation, or commands;
    `middlewares` run inside ours; `groups` are the routes of plugins.
    """
    sessions = _session_map(config, shares, jobs.draining)
    sessions.on_lag = measures.stream_lag.observe
    if config.streams.on_disconnect == "cancel":
        sessions.listen(CancelUnread(jobs, sessions, config.streams.disconnect_delay_s))
    address_of = client_address(config.server.trusted_proxies)
    request_rates = RequestRates(config, rates, address_of)
    logins = FailedLogins(config, rates, address_of)
    grants = Grants(jobs.grant_secret)
    access = Access(config, hook, grants, logins.check, unconfined=unconfined)
    bodies = Bodies(config.server)
    streams = StreamHandlers(jobs, sessions, access)
    transcripts = Transcripts(config.streams.result_text_bytes, config.streams.result_cache_bytes)
    guards = [problems, _guard(config, access, logins), large_documents(sessions)]
    app = web.Application(middlewares=[*guards, *middlewares])
    app[ACCESS] = access
    app[SERVICE] = jobs
    app[SESSIONS] = sessions
    app[LIFETIME] = lifetime
    deliveries = _deliveries(config, jobs)
    if deliveries is not None:
        app[DELIVERIES] = deliveries
    counts = {} if deliveries is None else deliveries.counts
    info = InfoHandlers(jobs, sessions, access, bodies, measures, lifetime, counts)
    app[TOLD] = {
        "metrics": info.tell_metrics,
        "ready": info.tell_ready,
        "readers": streams.tell_readers,
    }
    app.cleanup_ctx.append(_run)
    if config.server.allowed_origins:
        app.on_response_prepare.append(_send_cors)
    app.on_response_prepare.append(_keep_address)
    app.on_shutdown.append(_drain)
    if config.server.role == "worker":
        app.add_routes(info.process_routes())
        app.router.add_route("*", "/{path:.*}", _nothing_here)
        return app
    handlers = JobHandlers(jobs, access, request_rates, bodies, transcripts, streams)
    app.add_routes(handlers.routes())
    app.add_routes(BatchHandlers(jobs, access, request_rates, bodies, handlers.links).routes())
    app.add_routes(GrantHandlers(jobs, access, bodies, handlers.links).routes())
    app.add_routes(streams.routes())
    files = FileHandlers(jobs, sessions, access)
    app.add_routes(files.routes())
    jobs.files_url = partial(files.address, app.router)  # with the prefix that a host gives it
    app.add_routes(ProjectHandlers(jobs, access, request_rates).routes())
    app.add_routes(SessionHandlers(jobs, sessions, access, request_rates, bodies).routes())
    app.add_routes(info.routes())
    app.add_routes(ReferenceHandlers(jobs, access).routes())
    app.add_routes(page_routes(config.server.frame_ancestors))
    places = Places(config.compat.max_waiting)
    mount(app, groups, Desk(jobs, access, request_rates, bodies, places, lifetime.ask_versions))
    if request_rates.any:
        app.on_response_prepare.append(send_rates)
    return app


async def _nothing_here(_: web.Request) -> web.StreamResponse:
    raise NotFound(
        "this process is a worker (server.role), which runs jobs and only has /healthz, /readyz "
        "and /metrics: ask an API node"
    )


def get_service(source: web.Application | web.Request) -> Jobs:
    """Return the service of an application, or of a request's application.

    Raises RuntimeError if there is none.
    """
    return _of(source, SERVICE)


def get_sessions(source: web.Application | web.Request) -> SessionMap:
    """Return the open streams of an application, or of a request's application.

    Raises RuntimeError if there is no service.
    """
    return _of(source, SESSIONS)


def _of(source: web.Application | web.Request, key: web.AppKey[T]) -> T:
    found = source.config_dict if isinstance(source, web.Request) else source
    try:
        return found[key]
    except KeyError:
        raise RuntimeError(
            "this application has no streamer: call streamer.setup(app, ...) first"
        ) from None


def _session_map(config: Config, shares: Shares, leaving: asyncio.Event) -> SessionMap:
    options = StreamOptions(
        heartbeat_s=config.streams.heartbeat_s,
        write_timeout_s=config.streams.write_timeout_s,
        grace_s=config.streams.grace_s,
        retry_ms=config.streams.retry_ms,
        retry_jitter_ms=config.streams.retry_jitter_ms,
    )
    own = {
        name: bounds.max_readers
        for name, bounds in config.auth.tenants.items()
        if bounds.max_readers is not None
    }
    return SessionMap(
        options,
        max_per_key=config.streams.max_readers_per_job,
        max_sessions=config.streams.max_readers,
        max_per_client=lambda client: own.get(client, shares.readers),
        max_buffered_bytes=config.streams.max_buffered_bytes,
        leaving=leaving,
        address_of=client_address(config.server.trusted_proxies),
    )


def _deliveries(config: Config, jobs: Jobs) -> Deliveries | None:
    webhooks = config.webhooks
    if not webhooks.enabled or config.server.role == "worker":
        return None
    post = Poster(Targets(webhooks.allow_hosts), webhooks.timeout_s)
    return Deliveries(webhooks, jobs.webhooks, post)


async def _run(app: web.Application) -> AsyncIterator[None]:
    async with app[LIFETIME], _webhooks(app):
        if app[SERVICE].config.server.role != "worker":
            app[ACCESS].announce()
        yield


def _webhooks(app: web.Application) -> contextlib.AbstractAsyncContextManager[object]:
    """Return what delivers webhooks, or ends those of a server in which they were allowed once."""
    jobs = app[SERVICE]
    if (deliveries := app.get(DELIVERIES)) is not None:
        return deliveries
    if jobs.outlive_process and jobs.config.server.role != "worker":
        return Abandoned(jobs.webhooks)
    return contextlib.nullcontext()


async def _drain(app: web.Application) -> None:
    # Before the handlers are awaited: each stream ends by itself when its log has ended.
    await app[LIFETIME].drain(app[SERVICE].config.server.drain_s)
    if app[SERVICE].outlive_process:
        # Readers of jobs that this process ended get the end first, which may be on its way; those
        # of other jobs can resume at another process.
        await _closed(app[SESSIONS], END_ARRIVES_S)
        await app[SESSIONS].shutdown()


async def _closed(sessions: SessionMap, timeout_s: float) -> None:
    """Wait until every stream has ended by itself, for a limited time."""
    if not len(sessions):
        return
    closed = asyncio.Event()
    unlisten = sessions.listen(lambda *_: None if len(sessions) else closed.set())
    try:
        await ends_in(timeout_s, closed.wait())
    finally:
        unlisten()


def _guard(config: Config, access: Access, logins: FailedLogins) -> Middleware:
    """Return a middleware that refuses pages of other sites and unknown callers."""

    async def admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await _admitted(request, handler, access)
        except Unauthorized:
            if WRONG_TOKEN in request:
                await logins.count(request)
            raise

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = check_origin(request, config)
        if origin is None:
            return await admitted(request, handler)
        headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin", **CORS_HEADERS}
        if own := own_headers(request):
            headers[ALLOWED] = ", ".join((CORS_HEADERS[ALLOWED], *own))
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=headers)
        request[CORS] = headers
        return await admitted(request, handler)

    return guard


async def _admitted(request: web.Request, handler: Handler, access: Access) -> web.StreamResponse:
    """Answer a request if its sender may be answered at all. Raises `Unauthorized`."""
    await access.look(request)
    if (grant := await access.granted(request)) is not None:
        with closing_at_expiry(request, access.grants.left_s(grant)):
            return await handler(request)
    # A load balancer may check whether the service is alive, which reveals nothing else.
    if request.match_info.route.name not in OPEN_ROUTES and not access.is_scraper(request):
        access.admit(request)
    return await handler(request)


async def _keep_address(request: web.Request, response: web.StreamResponse) -> None:
    """Let browsers tell no other site an address that opens something."""
    if request.query_string and not CREDENTIALS.isdisjoint(request.query):
        response.headers["Referrer-Policy"] = "no-referrer"


async def _send_cors(request: web.Request, response: web.StreamResponse) -> None:
    # The headers of a stream are sent before a middleware sees the response.
    own = response.headers.get(hdrs.VARY)
    response.headers.update(headers := request.get(CORS, {}))
    if own is not None and headers:
        response.headers[hdrs.VARY] = f"{own}, {headers[hdrs.VARY]}"

"""Compose the application: configuration, plugins, engine, service, routes, lifetime."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pluggy
from aiohttp import web
from aiohttp.typedefs import Middleware

from streamer.config.load import load_config
from streamer.config.schema import Config
from streamer.config.shares import Shares
from streamer.engine.interface import Engine, JobView
from streamer.engine.measures import JobMeasures
from streamer.engine.memory.admission import QueueLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.errors import (
    ConfigError,
)
from streamer.eventlog.spool import Spool
from streamer.jobs.service import JobService
from streamer.jobs.transcript import Transcripts
from streamer.model.runtime import by_name
from streamer.plugins import load_backends, load_plugins
from streamer.sandbox.registry import Backends
from streamer.spi import Isolation
from streamer.sse.response import StreamOptions
from streamer.sse.sessionmap import SessionMap
from streamer.web.bodies import Bodies
from streamer.web.callers.access import Access
from streamer.web.callers.address import client_address
from streamer.web.callers.origin import check_origin
from streamer.web.documents import large_documents
from streamer.web.handlers import OPEN_ROUTES, Handlers
from streamer.web.page import page_routes
from streamer.web.parameters import Handler
from streamer.web.problems import problems
from streamer.web.server.logs import log_finished
from streamer.web.watching import CancelUnwatched
from streamer.worker.tools import missing_tools

__all__ = ["ACCESS", "SERVICE", "SESSIONS", "create_app", "get_service", "get_sessions", "setup"]

T = TypeVar("T")

log: Final = logging.getLogger(__name__)

SERVICE: Final = web.AppKey("streamer-service", JobService)
SESSIONS: Final = web.AppKey("streamer-sessions", SessionMap)
ACCESS: Final = web.AppKey("streamer-access", Access)
CORS_HEADERS: Final = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Accept, Authorization, Cache-Control, Content-Type, Idempotency-Key, Last-Event-ID, Prefer"
    ),
    "Access-Control-Expose-Headers": (
        "Content-Disposition, Idempotency-Replayed, Location, Preference-Applied, Retry-After, "
        "X-Job-Id"
    ),
    "Access-Control-Max-Age": "600",
}

ConfigLike = Config | Mapping[str, Any] | str | Path | None


def create_app(
    config: ConfigLike = None,
    *,
    plugins: Iterable[object] = (),
    middlewares: Iterable[Middleware] = (),
) -> web.Application:
    """Return an application that stands alone, or that a host mounts with `add_subapp`.

    `config` is a `Config`, a nested mapping, or the path of a TOML file; the environment
    is not read. `middlewares` run inside ours. The sandbox is tried at start-up, which
    raises `BackendUnavailable` if it does not work. Raises `ConfigError`, `PluginError`.
    """
    settings = _config(config)
    manager = load_plugins(plugins, settings.plugins.disabled)
    backends = Backends(
        load_backends(manager, settings.sandbox.options),
        settings.sandbox.backend,
        settings.sandbox.path,
        allow_list=settings.sandbox.network == "allow-list",
        read_only=[path for runtime in settings.runtimes.values() for path in runtime.read_only],
        etc=[name for runtime in settings.runtimes.values() for name in runtime.etc],
    )
    for name in settings.sandbox.allow:
        if name not in backends:
            raise ConfigError(
                f"sandbox.allow: there is no backend {name!r}; there are {', '.join(backends)}"
            )
    if settings.sandbox.allow_hosts and settings.sandbox.network == "none":
        log.warning('sandbox.allow_hosts does nothing while sandbox.network is "none"')
    shares = Shares.of(settings, told_apart=_told_apart(settings, manager.hook))
    measures = JobMeasures()
    engine: Engine | None = manager.hook.streamer_engine(config=settings)
    if engine is None:
        engine = _memory_engine(settings, shares)
    if settings.streams.on_full == "wait" and not engine.alone:
        raise ConfigError(
            'streams.on_full = "wait": the engine of engine.url cannot hold a program for readers '
            'in other processes; set "drop"'
        )
    engine.listen(_finished(measures, manager.hook))
    runtimes = by_name(settings.runtimes)
    service = JobService(
        settings,
        engine,
        backends,
        runtimes,
        missing_tools(settings.runtimes, settings.sandbox.path),
        measures,
    )
    sessions = _session_map(settings, shares, service.draining)
    if settings.streams.on_disconnect == "cancel":
        sessions.listen(CancelUnwatched(service, sessions, settings.streams.disconnect_delay_s))
    access = Access(settings, manager.hook, unconfined=_reaches_no_isolation(settings, backends))
    handlers = Handlers(service, sessions, access, Bodies(settings.server), _transcripts(settings))
    guards = [problems, _guard(settings, access), large_documents(sessions)]
    app = web.Application(middlewares=[*guards, *middlewares])
    app[ACCESS] = access
    app[SERVICE] = service
    app[SESSIONS] = sessions
    app.add_routes(handlers.routes())
    app.add_routes(page_routes())
    app.cleanup_ctx.append(_run_service)
    app.on_response_prepare.append(_send_cors)
    app.on_shutdown.append(_drain)
    return app


def setup(
    app: web.Application,
    config: ConfigLike = None,
    *,
    prefix: str = "/streamer",
    plugins: Iterable[object] = (),
    middlewares: Iterable[Middleware] = (),
) -> JobService:
    """Mount the service into a host application below `prefix` and return it.

    Reads no environment, configures no logging, starts nothing before the host starts. The
    host's middlewares run around ours. Raises RuntimeError when called twice on one
    application, ValueError for a prefix that is empty or does not begin with a slash.
    """
    if not prefix.startswith("/"):
        raise ValueError(f'prefix = {prefix!r}: a prefix begins with a slash, such as "/streamer"')
    if not prefix.strip("/"):
        raise ValueError(f'prefix = {prefix!r}: name a folder, such as "/streamer"')
    if SERVICE in app:
        raise RuntimeError(
            "streamer.setup() was called on this application before; for a second mount use "
            "create_app() and add_subapp()"
        )
    mounted = create_app(config, plugins=plugins, middlewares=middlewares)
    app.add_subapp(prefix, mounted)
    app[SERVICE] = mounted[SERVICE]
    app[SESSIONS] = mounted[SESSIONS]
    return mounted[SERVICE]


def get_service(source: web.Application | web.Request) -> JobService:
    """Return the service of an application, or of the one that a request came to.

    Raises RuntimeError if there is none.
    """
    return _of(source, SERVICE)


def get_sessions(source: web.Application | web.Request) -> SessionMap:
    """Return the open streams of an application, or of the one that a request came to.

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


def _config(config: ConfigLike) -> Config:
    if isinstance(config, Config):
        return config
    if config is None:
        return Config()
    if isinstance(config, Mapping):
        return Config.from_mapping(config)
    return load_config(config, environ={})


def _told_apart(config: Config, hook: pluggy.HookRelay) -> bool:
    tenants = {token.tenant for token in config.auth.tokens}
    return len(tenants) > 1 or bool(hook.streamer_authorize.get_hookimpls())


def _finished(measures: JobMeasures, hook: pluggy.HookRelay) -> Callable[[JobView], None]:
    def finished(view: JobView) -> None:
        log_finished(view)
        measures.finished(view)
        hook.streamer_job_finished(job=view)

    return finished


def _memory_engine(config: Config, shares: Shares) -> MemoryEngine:
    if config.engine.url != "memory://":
        scheme = config.engine.url.partition(":")[0]
        raise ConfigError(
            f"engine.url: no plugin serves {scheme}://; the built-in engine is memory://"
        )

    return MemoryEngine(
        queue=QueueLimits(
            places=config.queue.places,
            max_waiting=config.queue.max_waiting,
            max_waiting_bytes=config.queue.max_waiting_bytes,
            max_per_client=shares.waiting,
            max_bytes_per_client=shares.waiting_bytes,
            max_running_per_client=shares.running,
        ),
        retention_s=config.streams.retention_s,
        retention=RetentionLimits(
            memory=config.streams.retention_bytes,
            log_memory=config.streams.log_memory_bytes,
            log=config.streams.log_bytes,
            on_full=config.streams.on_full,
        ),
        spool=Spool(config.streams.disk_bytes),
        idempotency_s=config.queue.idempotency_s,
        max_idempotency_keys=config.queue.max_idempotency_keys,
    )


def _session_map(config: Config, shares: Shares, leaving: asyncio.Event) -> SessionMap:
    options = StreamOptions(
        heartbeat_s=config.streams.heartbeat_s,
        write_timeout_s=config.streams.write_timeout_s,
        grace_s=config.streams.grace_s,
        retry_ms=config.streams.retry_ms,
        retry_jitter_ms=config.streams.retry_jitter_ms,
    )
    return SessionMap(
        options,
        max_per_key=config.streams.max_readers_per_job,
        max_sessions=config.streams.max_readers,
        max_per_client=shares.readers,
        max_buffered_bytes=config.streams.max_buffered_bytes,
        leaving=leaving,
        address_of=client_address(config.server.trusted_proxies),
    )


def _transcripts(config: Config) -> Transcripts:
    streams = config.streams
    return Transcripts(streams.result_text_bytes, streams.result_cache_bytes)


async def _run_service(app: web.Application) -> AsyncIterator[None]:
    async with app[SERVICE]:
        app[ACCESS].announce()
        yield


async def _drain(app: web.Application) -> None:
    # Before the handlers are awaited: each stream ends by itself once its log has.
    await app[SERVICE].drain(app[SERVICE].config.server.drain_s)


def _reaches_no_isolation(config: Config, backends: Backends) -> bool:
    """Tell whether a caller may run a command, or anything in a sandbox without isolation."""
    sandbox = config.sandbox
    # `auto` takes no such sandbox.
    reachable = {sandbox.backend, *sandbox.allow} & backends.keys()
    return sandbox.allow_command or any(
        backends[name].isolation is Isolation.NONE for name in reachable
    )


def _guard(config: Config, access: Access) -> Middleware:
    """Refuse pages of other sites and strangers, before any handler."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = check_origin(request, config)
        if origin is None:
            _admit(request, access)
            return await handler(request)
        headers = {"Access-Control-Allow-Origin": origin, "Vary": "Origin", **CORS_HEADERS}
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=headers)
        request[CORS] = headers
        _admit(request, access)
        return await handler(request)

    return guard


def _admit(request: web.Request, access: Access) -> None:
    # A load balancer may ask whether the service lives, and learns nothing else by it.
    if request.match_info.route.name not in OPEN_ROUTES and not access.is_scraper(request):
        access.admit(request)


CORS: Final = web.RequestKey("streamer-cors", dict[str, str])


async def _send_cors(request: web.Request, response: web.StreamResponse) -> None:
    # A stream's headers are out before a middleware sees the response.
    response.headers.update(request.get(CORS, {}))

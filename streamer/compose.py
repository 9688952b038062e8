"""Compose the service: configuration, plugins, engine, and the halves, without HTTP.

With `streamer.application`, which puts the HTTP interface around them, the only module that sees
everything.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import pluggy

from streamer.bounded import within
from streamer.config.load import load_config
from streamer.config.schema import Config
from streamer.config.shares import Shares
from streamer.engine.interface import Engine, JobView
from streamer.engine.lifetime import started
from streamer.engine.measures import JobMeasures
from streamer.engine.memory.admission import QueueLimits
from streamer.engine.memory.blobs import BlobLimits
from streamer.engine.memory.engine import MemoryEngine
from streamer.engine.memory.retention import RetentionLimits
from streamer.errors import ConfigError
from streamer.eventlog.spool import Spool
from streamer.jobs.jobs import Jobs
from streamer.model.capabilities import Ahead
from streamer.plugins import load_backends, load_plugins
from streamer.sandbox.registry import Backends
from streamer.spi import Isolation
from streamer.web.server.logs import log_finished
from streamer.worker.worker import Worker

__all__ = ["ConfigLike", "Parts", "Role", "build"]

log: Final = logging.getLogger(__name__)

DRAIN_TIMEOUT_S: Final = 5.0
"""How long to wait for the engine to accept no more jobs."""

ConfigLike = Config | Mapping[str, Any] | str | Path | None

Role = Literal["all", "api", "worker"]


@dataclass(eq=False)
class Parts:
    """The parts of a service in one process. Use it as an asynchronous context manager.

    Entering it starts the engine, and the worker if there is one: it raises `BackendUnavailable`
    when the configured sandbox does not work here, `ServiceError` when the engine does not answer.
    """

    config: Config
    hook: pluggy.HookRelay
    shares: Shares
    engine: Engine
    jobs: Jobs
    measures: JobMeasures
    unconfined: bool
    """Whether callers may run a command, or anything in a sandbox without isolation."""
    _worker: Worker | None
    _resources: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def worker(self) -> Worker:
        """The half that runs jobs. Raises RuntimeError in a process that only accepts them."""
        if self._worker is None:
            raise RuntimeError("this process runs no jobs: its role is api")
        return self._worker

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if self._worker is not None:
                await stack.enter_async_context(self._worker)
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-"))
                await stack.enter_async_context(started(self.engine, Path(folder)))
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._accept_no_more()
        finally:
            await self._resources.aclose()

    async def drain(self, timeout_s: float) -> None:
        """Accept no more jobs, end the queued ones, and give the running ones `timeout_s`.

        After that the running ones are killed, which has a time limit too. When this returns,
        every log has its terminal event. `hurry` ends the waiting time. Idempotent.
        """
        await self._accept_no_more()
        if self._worker is not None:
            await self._worker.drain(timeout_s)

    def hurry(self) -> None:
        """End the waiting time of a running `drain`."""
        if self._worker is not None:
            self._worker.hurry()

    async def _accept_no_more(self) -> None:
        # Whatever the engine does: the worker's jobs and sandboxes must still be ended.
        try:
            await within(DRAIN_TIMEOUT_S, self.jobs.drain())
        except Exception:
            log.exception("the engine could not be told to accept no more jobs")

    def ahead(self) -> Ahead:
        """Return what the worker of this process, if any, has started before its job."""
        return Ahead() if self._worker is None else self._worker.ahead

    def ask_versions(self) -> None:
        """Let the worker of this process, if any, ask the tools of the languages for theirs."""
        if self._worker is not None:
            self._worker.ask_versions()

    async def try_sandboxes(self) -> None:
        """Let the worker of this process, if any, test the backends that were not tested yet."""
        if self._worker is not None:
            await self._worker.try_all()


def build(config: ConfigLike = None, plugins: Iterable[object] = (), role: Role = "all") -> Parts:
    """Return the parts of a service, without HTTP and not started.

    Raises `ConfigError`, `PluginError`.
    """
    settings = _config(config)
    manager = load_plugins(plugins, settings.plugins.disabled)
    backends = _backends(settings, manager)
    shares = Shares.of(settings, several_clients=_has_several_clients(settings, manager.hook))
    engine: Engine | None = manager.hook.streamer_engine(config=settings)
    if engine is None:
        engine = _memory_engine(settings, shares)
    if settings.streams.on_full == "wait" and not engine.alone:
        raise ConfigError(
            'streams.on_full = "wait": the engine of engine.url cannot hold a program for readers '
            'in other processes; set "drop"'
        )
    measures = JobMeasures()
    engine.listen(_finished(measures, manager.hook))
    return Parts(
        config=settings,
        hook=manager.hook,
        shares=shares,
        engine=engine,
        jobs=Jobs(settings, engine),
        measures=measures,
        unconfined=_reaches_no_isolation(settings, backends),
        _worker=None if role == "api" else Worker(settings, engine, backends),
    )


def _config(config: ConfigLike) -> Config:
    if isinstance(config, Config):
        return config
    if config is None:
        return Config()
    if isinstance(config, Mapping):
        return Config.from_mapping(config)
    return load_config(config, environ={})


def _backends(config: Config, manager: pluggy.PluginManager) -> Backends:
    sandbox = config.sandbox
    backends = Backends(
        load_backends(manager, sandbox.options),
        sandbox.backend,
        sandbox.path,
        allow_list=sandbox.network == "allow-list",
        # Without those of environments, which may be built later: one in a place that a sandbox
        # cannot show must not be in the way of jobs without it.
        read_only=[path for runtime in config.runtimes.values() for path in runtime.read_only],
        etc=[name for runtime in config.runtimes.values() for name in runtime.etc],
        warm=sandbox.warm,
        forked=[runtime for runtime in config.runtimes.values() if runtime.fork],
    )
    for name in sandbox.allow:
        if name not in backends:
            raise ConfigError(
                f"sandbox.allow: unknown backend {name!r}; known: {', '.join(backends)}"
            )
    if sandbox.allow_hosts and sandbox.network == "none":
        log.warning('sandbox.allow_hosts has no effect while sandbox.network is "none"')
    return backends


def _has_several_clients(config: Config, hook: pluggy.HookRelay) -> bool:
    tenants = {token.tenant for token in config.auth.tokens}
    return len(tenants) > 1 or bool(hook.streamer_authorize.get_hookimpls())


def _reaches_no_isolation(config: Config, backends: Backends) -> bool:
    sandbox = config.sandbox
    # `auto` never takes such a sandbox.
    reachable = {sandbox.backend, *sandbox.allow} & backends.keys()
    return sandbox.allow_command or any(
        backends[name].isolation is Isolation.NONE for name in reachable
    )


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
            max_waiting_per_client=shares.waiting,
            max_waiting_bytes_per_client=shares.waiting_bytes,
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
        blobs=BlobLimits(
            total=config.engine.blob_bytes,
            tenant=shares.blob_bytes,
            number=config.engine.max_blobs,
        ),
        idempotency_s=config.queue.idempotency_s,
        max_idempotency_keys=config.queue.max_idempotency_keys,
    )

"""Compose the service: configuration, plugins, engine, and the halves, without HTTP.

With `streamer.application`, which puts the HTTP interface around them, the only module that sees
everything.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pluggy

from streamer.bounded import within
from streamer.config.load import load_config
from streamer.config.schema import Config, without_password
from streamer.config.shares import Shares
from streamer.engine.interface import Engine, JobView, KnowsNodes
from streamer.engine.lifetime import kept_up, started
from streamer.engine.measures import JobMeasures
from streamer.engines import configured_engine
from streamer.errors import ConfigError
from streamer.jobs.jobs import Jobs
from streamer.jobs.tracing import Tracing
from streamer.model.capabilities import Ahead, Capabilities
from streamer.model.events import Complete, Error
from streamer.model.job import ResolvedJob
from streamer.model.runtime import by_name
from streamer.model.timeline import Timeline
from streamer.plugins import load_backends, load_plugins
from streamer.sandbox.registry import Backends
from streamer.spi import Isolation
from streamer.web.server.logs import log_finished
from streamer.worker.execution import OnOver
from streamer.worker.worker import Worker

if TYPE_CHECKING:
    from streamer.web.groups.mounting import Mounted

__all__ = ["ConfigLike", "Parts", "build", "not_shared"]

log: Final = logging.getLogger(__name__)

DRAIN_TIMEOUT_S: Final = 5.0
"""How long to wait for the engine to accept no more jobs."""

ConfigLike = Config | Mapping[str, Any] | str | Path | None


@dataclass(eq=False)
class Parts:
    """The parts of a service in one process. Use it as an asynchronous context manager.

    Entering it starts the engine, and the worker if there is one: it raises `BackendUnavailable`
    when the configured sandbox does not work here, `ServiceError` when the engine does not answer.
    """

    config: Config
    hook: pluggy.HookRelay
    groups: Sequence[Mounted]
    """The groups of routes that the configuration switches on."""
    shares: Shares
    engine: Engine
    jobs: Jobs
    measures: JobMeasures
    backends: Backends
    tracing: Tracing | None
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
        if self.tracing is not None:
            self.tracing.announce()
        async with contextlib.AsyncExitStack() as stack:
            if self._worker is not None:
                await stack.enter_async_context(self._worker)
            else:
                folder = stack.enter_context(_own_folder(self.config.server.state_dir))
                await stack.enter_async_context(started(self.engine, folder))
                await stack.enter_async_context(kept_up(self.engine))
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

    def own(self) -> Capabilities | None:
        """Return what the worker of this process can run now, or None if there is none."""
        return None if self._worker is None else self._worker.capabilities()

    @property
    def node(self) -> str:
        """The name of this process in an engine that tells processes apart."""
        return self.engine.node if isinstance(self.engine, KnowsNodes) else ""

    async def node_gone(self, node: str) -> None:
        """Tell the engine that a process has ended, with all that it ran."""
        if isinstance(self.engine, KnowsNodes):
            await self.engine.node_gone(node)

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


def build(config: ConfigLike = None, plugins: Iterable[object] = ()) -> Parts:
    """Return the parts of a service that `server.role` asks for, without HTTP and not started.

    Raises `ConfigError`, `PluginError`.
    """
    settings = _config(config)
    manager = load_plugins(plugins, settings.plugins.disabled)
    settings, groups = _with_groups(settings, manager.hook)
    backends = _backends(settings, manager)
    shares = Shares.of(settings, several_clients=_has_several_clients(settings, manager.hook))
    engine: Engine | None = manager.hook.streamer_engine(config=settings)
    if engine is None:
        engine = configured_engine(settings, shares)
    if settings.server.role != "all" and engine.alone:
        raise not_shared(settings)
    if settings.streams.on_full == "wait" and not engine.alone:
        raise ConfigError(
            'streams.on_full = "wait": the engine of engine.url cannot hold a program for readers '
            'in other processes; set "drop"'
        )
    measures = _measures(settings)
    tracing = Tracing() if settings.tracing.enabled else None
    engine.listen(_finished(measures, tracing, manager.hook))
    worker = None if settings.server.role == "api" else Worker(settings, engine, backends)
    if worker is not None:
        worker.on_over = _ran(measures, tracing)
    return Parts(
        config=settings,
        hook=manager.hook,
        groups=groups,
        shares=shares,
        engine=engine,
        jobs=Jobs(settings, engine, tracing),
        measures=measures,
        backends=backends,
        tracing=tracing,
        unconfined=_reaches_no_isolation(settings, backends),
        _worker=worker,
    )


@contextlib.contextmanager
def _own_folder(state_dir: str) -> Iterator[Path]:
    """Create the folder of a process without a worker, for what it receives and sends."""
    try:
        if state_dir:
            Path(state_dir).mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="streamer-", dir=state_dir or None)
    except OSError as error:
        raise ConfigError(
            f"server.state_dir: {error.filename or state_dir}: {error.strerror}; use a folder that "
            "the service may write to"
        ) from error
    with folder as name:
        yield Path(name)


def not_shared(config: Config) -> ConfigError:
    """Return the error for a part of a service whose engine no other process can use."""
    return ConfigError(
        f'server.role = "{config.server.role}": the API and the workers need an engine that '
        f"processes can share, and engine.url is {without_password(config.engine.url)!r}: set a "
        'redis:// one, or server.role = "all"'
    )


def _config(config: ConfigLike) -> Config:
    if isinstance(config, Config):
        return config
    if config is None:
        return Config()
    if isinstance(config, Mapping):
        return Config.from_mapping(config)
    return load_config(config, environ={})


def _with_groups(config: Config, hook: pluggy.HookRelay) -> tuple[Config, Sequence[Mounted]]:
    """Return the groups of routes that are switched on, and the configuration with them."""
    if not config.compat.enabled and not config.compat.options:
        return config, ()
    # Not before it is needed: a program that runs here has no routes.
    from streamer.web.groups.mounting import chosen_groups, with_runtimes  # noqa: PLC0415

    groups = chosen_groups(hook, config.compat)
    return with_runtimes(config, groups), groups


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
    return config.auth.tells_apart or bool(hook.streamer_authorize.get_hookimpls())


def _reaches_no_isolation(config: Config, backends: Backends) -> bool:
    sandbox = config.sandbox
    # `auto` never takes such a sandbox.
    reachable = {sandbox.backend, *sandbox.allow} & backends.keys()
    return sandbox.allow_command or any(
        backends[name].isolation is Isolation.NONE for name in reachable
    )


def _measures(config: Config) -> JobMeasures:
    languages = {runtime.name for runtime in by_name(config.runtimes).values()}
    tenants = (token.tenant for token in config.auth.tokens)
    return JobMeasures(languages, [*tenants, *config.auth.tenants])


def _finished(
    measures: JobMeasures, tracing: Tracing | None, hook: pluggy.HookRelay
) -> Callable[[JobView], None]:
    def finished(view: JobView) -> None:
        log_finished(view)
        measures.finished(view)
        if tracing is not None:
            tracing.ended(view)
        hook.streamer_job_finished(job=view)

    return finished


def _ran(measures: JobMeasures, tracing: Tracing | None) -> OnOver:
    def ran(job: ResolvedJob, timeline: Timeline, end: Complete | Error) -> None:
        measures.ran(job.language, timeline)
        if tracing is not None:
            tracing.ran(job.facts, job.tenant, timeline, end)

    return ran

"""Find out what the worker of this host can run."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from streamer.config.schema import Config
from streamer.model.capabilities import Accepts, Ahead, BackendFacts, Capabilities
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import by_name
from streamer.sandbox.enforcement import check_required, enforcement
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.registry import Backends
from streamer.worker.versions import Languages

__all__ = ["WorkerHost"]

log: Final = logging.getLogger(__name__)


class WorkerHost:
    """The configured sandboxes and languages that work on this host."""

    def __init__(self, config: Config, backends: Backends) -> None:
        self._config = config
        self.backends = backends
        self.languages = Languages(
            config.worker.taken(config.runtimes),
            config.sandbox.path,
            config.limits,
            backends,
            config.environments,
            by_name(config.runtimes),
        )

    @asynccontextmanager
    async def open_pool(self, users: int, lasting: int = 0) -> AsyncIterator[Pool]:
        """Create what sandboxes need, `lasting` of them for sessions; backends can be tested."""
        sandbox = self._config.sandbox
        with open_pool(
            self.backends,
            state_dir=self._config.server.state_dir,
            cgroup=sandbox.cgroup,
            cpu_weight=sandbox.cpu_weight,
            uid_base=sandbox.uid_base,
            places=self._config.queue.places,
            users=users,
            lasting=lasting,
            strict_filter=sandbox.seccomp == "strict",
            forks=self._forks,
        ) as pool:
            try:
                async with self.backends.tried_in(pool):
                    yield pool
            finally:
                await pool.close()

    @property
    def _forks(self) -> ForkBounds | None:
        sandbox = self._config.sandbox
        if not any(runtime.fork for runtime in self._config.runtimes.values()):
            return None
        return ForkBounds(sandbox.fork_jobs, sandbox.fork_age_s)

    async def check(self, cgroup_level: str | None) -> None:
        """Test the sandboxes that jobs may get, and log which configured languages are missing.

        Raises `BackendUnavailable`, and `ConfigError` if a limit is not enforced as required.
        """
        sandbox = self._config.sandbox
        await self.backends.find_default()
        # Nobody asks a worker by itself for those that were not tested yet.
        everything = self._config.server.role == "worker"
        await self.backends.reasons(self.backends if everything else sandbox.allow)
        for name in {self.backends.default, *sandbox.allow} & self.backends.keys():
            check_required(sandbox.require, self.backends[name], cgroup_level)
        for name, reason in self.languages.missing.items():
            # Not every host has every built-in language; one that was configured is expected.
            if self._config.runtimes[name] != DEFAULT_RUNTIMES.get(name):
                log.warning("the language %s is not available: %s", name, reason)
        for name, facts in self.languages.environments.items():
            if facts.reason:
                log.warning("the environment %s is not available: %s", name, facts.reason)
        if not (sandbox.allow_command or self.languages.available):
            log.warning(
                "no language is available: check sandbox.path (%s) and `streamer runtimes`",
                sandbox.path,
            )

    def capabilities(
        self, cgroup_level: str | None, *, accepting: bool, resisting: int, ahead: Ahead
    ) -> Capabilities:
        reasons = self.backends.known(self.backends)
        filtering = self.backends.filtering
        return Capabilities(
            backends={
                name: BackendFacts(
                    isolation=backend.isolation.name.lower(),
                    reason=reasons[name],
                    filtering=name in filtering,
                    terminals=backend.gated and backend.terminals(),
                    readable=backend.gated,
                    sessions=backend.gated,
                    keeps=backend.gated and cgroup_level is not None,
                    tmp_bytes=backend.size_of_tmp(),
                    enforces=enforcement(backend, cgroup_level),
                )
                for name, backend in self.backends.items()
            },
            default=self.backends.default,
            languages=self.languages.available,
            missing=self.languages.missing,
            versions=dict(self.languages.versions),
            environments=self.languages.environments,
            processors=len(os.sched_getaffinity(0)),
            places=self._config.queue.places,
            cgroup_level=cgroup_level,
            accepting=accepting,
            trusted=self.backends.trusted,
            resisting=resisting,
            ahead=ahead,
        )

    @property
    def accepts(self) -> Accepts:
        """Which jobs it can run: the same as by its capabilities, for each claim."""
        reasons = self.backends.known(self.backends)
        environments = self.languages.environments
        return Accepts(
            frozenset(name for name, reason in reasons.items() if not reason),
            self.languages.available,
            frozenset(name for name, facts in environments.items() if not facts.reason),
        )

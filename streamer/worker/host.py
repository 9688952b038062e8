"""Find out what the worker of this host can run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamer.config.schema import Config
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime
from streamer.sandbox.enforcement import check_required, enforcement
from streamer.sandbox.forks import ForkBounds
from streamer.sandbox.pool import Pool, open_pool
from streamer.sandbox.registry import Backends

__all__ = ["Tool", "WorkerHost", "find_tool", "missing_tools"]

log: Final = logging.getLogger(__name__)


class WorkerHost:
    """The configured sandboxes and languages that work on this host."""

    def __init__(self, config: Config, backends: Backends) -> None:
        self._config = config
        self.backends = backends
        self.missing = missing_tools(config.runtimes, config.sandbox.path)
        """The reasons why languages are not available here, by name."""
        self._languages = frozenset(
            runtime.name for runtime in config.runtimes.values() if runtime.name not in self.missing
        )

    @asynccontextmanager
    async def open_pool(self, users: int) -> AsyncIterator[Pool]:
        """Create what sandboxes need, and let backends be tested with it."""
        sandbox = self._config.sandbox
        with open_pool(
            self.backends,
            state_dir=self._config.server.state_dir,
            cgroup=sandbox.cgroup,
            uid_base=sandbox.uid_base,
            places=self._config.queue.places,
            users=users,
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
        await self.backends.reasons(sandbox.allow)
        for name in {self.backends.default, *sandbox.allow} & self.backends.keys():
            check_required(sandbox.require, self.backends[name], cgroup_level)
        for name, reason in self.missing.items():
            # Not every host has every built-in language; one that was configured is expected.
            if self._config.runtimes[name] != DEFAULT_RUNTIMES.get(name):
                log.warning("the language %s is not available: %s", name, reason)
        if not (sandbox.allow_command or self._languages):
            log.warning(
                "no language is available: check sandbox.path (%s) and `streamer runtimes`",
                sandbox.path,
            )

    def capabilities(
        self, cgroup_level: str | None, *, accepting: bool, resisting: int
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
                    enforces=enforcement(backend, cgroup_level),
                )
                for name, backend in self.backends.items()
            },
            default=self.backends.default,
            languages=self._languages,
            missing=self.missing,
            processors=len(os.sched_getaffinity(0)),
            places=self._config.queue.places,
            cgroup_level=cgroup_level,
            accepting=accepting,
            trusted=self.backends.trusted,
            resisting=resisting,
        )


@dataclass(frozen=True, slots=True)
class Tool:
    """The tool of a runtime on this host: its `path`, or the `reason` why it is missing."""

    name: str
    path: str | None
    reason: str = ""


def find_tool(runtime: Runtime, path: str) -> Tool:
    """Look in `path` for the tools that compile and run programs of the language.

    `path` is the PATH of the jobs, not that of the service: jobs cannot use a version manager's
    shim in a user's home.
    """
    first = Tool(runtime.run[0], None)
    for command in (runtime.run, runtime.compile):
        if not command or command[0].startswith(("./", "{")):
            continue  # the program itself
        found = shutil.which(command[0], path=path)
        if found is None:
            where = "" if "/" in command[0] else f" in {path}"
            reason = f"{command[0]} is not installed: looked for `{command[0]}`{where}"
            return Tool(command[0], None, reason)
        first = Tool(command[0], found)
    return first


def missing_tools(runtimes: Mapping[str, Runtime], path: str) -> dict[str, str]:
    """Return the runtimes that cannot be used on this host, with the reasons."""
    reasons = {
        name: missing_path(runtime) or find_tool(runtime, path).reason
        for name, runtime in runtimes.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def missing_path(runtime: Runtime) -> str:
    """Return a message about a path of the runtime that does not exist, or ``""``."""
    for path in runtime.read_only:
        if not Path(path).exists():
            return f"runtimes.{runtime.name}.read_only: {path} does not exist on this host"
    return ""

"""Resolve a `SessionSpec` against the configuration into a session that a worker can open."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields, replace
from typing import Any, Final

from streamer.errors import Forbidden, InvalidJob, quoted
from streamer.jobs.arguments import check_metadata
from streamer.jobs.limits import resolved_limits
from streamer.jobs.project import Project
from streamer.jobs.resolve import Resolver, check_built
from streamer.model.capabilities import BackendFacts, Capabilities
from streamer.model.job import Limits
from streamer.model.runtime import Runtime
from streamer.model.session import ResolvedSession, SessionSpec

__all__ = ["SessionResolver"]

LEAST_IDLE_S: Final = 1.0


class SessionResolver(Resolver):
    """Resolves jobs, and sessions."""

    def resolve_session(
        self,
        spec: SessionSpec,
        session_id: str,
        workers: Capabilities,
        languages: Collection[str],
        tenant: str,
        project: Project | None,
    ) -> ResolvedSession:
        """Return the session to open, for jobs in some languages.

        Raises `InvalidJob`, `Forbidden` or `BackendUnavailable`.
        """
        config = self._config
        if not config.sessions.max:
            raise Forbidden("sessions are not allowed by the configuration (sessions.max)")
        backend = self._backend(spec.sandbox, workers)
        facts = workers.backends[backend]
        if not facts.sessions:
            raise InvalidJob(f"the sandbox {quoted(backend)} has no sessions", path="$.sandbox")
        if spec.keep_processes and not facts.keeps:
            raise InvalidJob(
                f"without control groups the sandbox {quoted(backend)} keeps no processes",
                path="$.keepProcesses",
            )
        check_metadata(spec.metadata)
        allow_hosts = self._allow_hosts(spec.network, backend, workers)
        runtimes = [runtime for name, runtime in config.runtimes.items() if name in languages]
        packages = self._packages(spec.environment, workers)
        most = config.limits.max
        limits = resolved_limits(spec.limits, self._most_of(runtimes), most)
        if project is not None:
            project.contents.check_over((), limits)
        return ResolvedSession(
            session_id,
            tenant,
            backend,
            limits,
            idle_s=self._idle_s(spec.idle_s),
            total_s=config.sessions.total_s,
            network=spec.network and not allow_hosts,
            allow_hosts=allow_hosts,
            read_only=_all_of((*(runtime.read_only for runtime in runtimes), packages)),
            etc=_all_of(runtime.etc for runtime in runtimes),
            tmp_bytes=self._largest_tmp(runtimes, facts),
            terminal=facts.terminals,
            project=None if project is None else project.for_job,
            environment=spec.environment,
            languages=tuple(sorted(languages)),
            keep_processes=spec.keep_processes,
            metadata=dict(spec.metadata),
        )

    def _packages(self, name: str | None, workers: Capabilities) -> tuple[str, ...]:
        """Return the folder of an environment, if it is named. Raises `InvalidJob`."""
        if name is None:
            return ()
        environment = self._config.environments.get(name)
        if environment is None:
            known = ", ".join(sorted(self._config.environments))
            there_are = f"there are: {known}" if known else "there is none"
            raise InvalidJob(
                f"the environment {quoted(name)} is unknown; {there_are}", path="$.environment"
            )
        check_built(name, workers)
        return (environment.path,)

    def _most_of(self, runtimes: Iterable[Runtime]) -> Limits:
        """Return what every language needs by default, so that its jobs have it in the session."""
        bases = [self._config.limits.default]
        bases += [self._raised[runtime.name] for runtime in runtimes]
        most: dict[str, Any] = {
            one.name: max(getattr(base, one.name) for base in bases) for one in fields(Limits)
        }
        # The stack of compiled languages is as large as their memory.
        room = min(most["memory_bytes"], self._config.limits.max.stack_bytes)
        return replace(Limits(**most), stack_bytes=max(most["stack_bytes"], room))

    def _largest_tmp(self, runtimes: Iterable[Runtime], facts: BackendFacts) -> int | None:
        """Return the size of a /tmp in which each language, and a command, has its own."""
        default = facts.tmp_bytes
        if default is None:
            return None
        sizes = {runtime.tmp_bytes or default for runtime in runtimes}
        return max(sizes | {default} if self._config.sandbox.allow_command else sizes or {default})

    def _idle_s(self, wanted: float | None) -> float:
        most = self._config.sessions.idle_s
        if wanted is None:
            return most
        least = min(LEAST_IDLE_S, most)
        if isinstance(wanted, bool) or not least <= wanted <= most:
            raise InvalidJob(f"idleS must be from {least:g} to {most:g}", path="$.idleS")
        return float(wanted)


def _all_of(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for group in groups for one in group))

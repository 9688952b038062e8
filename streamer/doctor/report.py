"""Run the probes to find out what each sandbox enforces on this host, and how to fix the rest.

Each backend is tested in its own service in this process, with the operator's options for backends
and the built-in limits; the probes set their own limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from streamer.compose import build
from streamer.config.schema import Config, EngineConfig, LimitsConfig, QueueConfig, StreamsConfig
from streamer.doctor.hostfacts import (
    HostFacts,
    WrapperFacts,
    host_facts,
    host_warnings,
    remedies,
    wrapper_facts,
    wrapper_warnings,
)
from streamer.doctor.lures import lay_lures
from streamer.doctor.probes import PROBES, Probe
from streamer.doctor.target import Finding, ProbeFailed, Target
from streamer.engine.lifetime import closed
from streamer.environments.manifest import look
from streamer.errors import BackendUnavailable, ConfigError
from streamer.model.capabilities import NOT_OFFERED
from streamer.model.names import camel
from streamer.model.runtime import by_name
from streamer.sandbox.cgroups.tree import cgroup_tree
from streamer.sandbox.enforcement import enforcement
from streamer.sandbox.forks import Forks
from streamer.sandbox.trial import knows_templates
from streamer.spi import Backend

__all__ = ["BackendReport", "EnvironmentReport", "Outcome", "ProbeReport", "Report", "examine"]

CONCURRENCY: Final = 8
PROBE_TIMEOUT_S: Final = 90.0
"""Eight run at once, so on a slow host one takes long."""
KILL_GRACE_S: Final = 0.2


Outcome = Literal["ok", "fails", "not promised"]


class ProbeReport(msgspec.Struct, frozen=True, rename="camel"):
    """One probe's outcome. It is run even if the backend does not promise it: see `detail`."""

    name: str
    promise: str
    outcome: Outcome
    detail: str
    enforced_by: str = ""
    """How the limit is enforced, if it is one (`streamer.sandbox.enforcement`)."""
    remedy: str = ""


class BackendReport(msgspec.Struct, frozen=True, rename="camel"):
    """The results of one backend; without probes if it is not `available`."""

    name: str
    isolation: str
    available: bool
    reason: str = ""
    remedies: tuple[str, ...] = ()
    wrapper: WrapperFacts | None = None
    """The command that starts it, if it has one."""
    warnings: tuple[str, ...] = ()
    enforces: Mapping[str, str] = {}
    """Each limit and how it is enforced (`streamer.sandbox.enforcement`)."""
    probes: tuple[ProbeReport, ...] = ()
    template: str = ""
    """How jobs get their sandboxes, if the backend has a template: from that, or why not."""
    warm: str = ""
    """Whether programs are started before their jobs, or why not."""
    forks: Mapping[str, str] = {}
    """Of languages with ``fork``, whether their programs are forked, or why not."""

    @property
    def holds(self) -> bool:
        """Whether it is available and keeps all its promises."""
        return self.available and all(probe.outcome != "fails" for probe in self.probes)


class EnvironmentReport(msgspec.Struct, frozen=True, rename="camel"):
    """A configured environment; it keeps no promise of a sandbox, so nothing here fails."""

    name: str
    languages: tuple[str, ...]
    path: str
    reason: str
    """Why jobs cannot use it, and the remedy; empty if they can."""


class Report(msgspec.Struct, frozen=True, rename="camel"):
    host: HostFacts
    configured: str
    """``sandbox.backend``; `chosen` is the backend that it selects, empty if none works."""
    chosen: str
    backends: tuple[BackendReport, ...]
    ok: bool
    """Whether the chosen backend, and each that callers may choose, holds."""
    warnings: tuple[str, ...] = ()
    """What jobs can use on this host in any sandbox."""
    environments: tuple[EnvironmentReport, ...] = ()


async def examine(config: Config) -> Report:
    """Test every backend, which takes some seconds.

    Raises `ConfigError` and `PluginError` as `create_app` does, and `BackendUnavailable` if no
    backend can be tested at all.
    """
    with cgroup_tree(config.sandbox.cgroup, config.sandbox.cpu_weight) as tree:
        host = host_facts(tree.level if tree else None, config.sandbox.cgroup)
    parts = build(_target_config(config, config.sandbox.backend))
    chosen = ""
    async with parts.worker.trial() as backends:
        reasons = await backends.reasons()
        with contextlib.suppress(BackendUnavailable):
            await backends.find_default()
            chosen = backends.default
    await closed(parts.engine)
    offered = {chosen or config.sandbox.backend, *config.sandbox.allow}
    reports = []
    # One after another, so that the lures show which backend failed.
    for name, backend in sorted(backends.items(), key=lambda item: -item[1].isolation):
        found = BackendReport(
            name, backend.isolation.name.lower(), not reasons[name], reasons[name]
        )
        if found.available:
            # `sandbox.require` applies to the backends that jobs may get.
            own = _target_config(config, name, required=name in offered)
            found = await _try_backend(found, own)
        command = str(getattr(backend, "path", ""))
        if not found.available:
            found = replace(found, remedies=tuple(remedies(host, name, command)))
        if wrapper := await asyncio.to_thread(wrapper_facts, command):
            warnings = (*found.warnings, *wrapper_warnings(name, wrapper))
            found = replace(found, wrapper=wrapper, warnings=warnings)
        reports.append(found)
    return Report(
        host=host,
        configured=config.sandbox.backend,
        chosen=chosen,
        backends=tuple(reports),
        ok=bool(chosen) and all(report.holds for report in reports if report.name in offered),
        warnings=tuple(host_warnings(host)),
        environments=_environments(config),
    )


def _environments(config: Config) -> tuple[EnvironmentReport, ...]:
    found = look(config.environments, by_name(config.runtimes), config.sandbox.path)
    return tuple(
        EnvironmentReport(name, each.languages, each.path, found[name].reason)
        for name, each in sorted(config.environments.items())
    )


def _target_config(config: Config, backend: str, *, required: bool = False) -> Config:
    return replace(
        config,
        sandbox=replace(
            config.sandbox,
            backend=backend,
            allow=(),
            allow_command=True,
            kill_grace_s=KILL_GRACE_S,
            require=config.sandbox.require if required else (),
        ),
        limits=LimitsConfig(),
        queue=QueueConfig(concurrency=CONCURRENCY),
        streams=StreamsConfig(),
        engine=EngineConfig(),
    )


async def _try_backend(found: BackendReport, config: Config) -> BackendReport:
    parts = build(config)
    backend = parts.worker.backends[found.name]
    try:
        async with lay_lures() as lures, parts:
            enforces = enforcement(backend, parts.worker.cgroup_level)
            assert parts.worker.pool is not None
            why_no_template = parts.worker.pool.templates.why_not(found.name)
            forks = _forks(parts.worker.pool.forks, found.name, config)
            why_not_warm = parts.worker.pool.held.why_not(found.name)
            target = Target(parts.jobs, lures)
            probes = await asyncio.gather(
                *(_try_probe(probe, target, backend, enforces) for probe in PROBES)
            )
    except (BackendUnavailable, ConfigError) as error:
        return replace(found, available=False, reason=error.message)
    warning = parts.worker.backends.warning(found.name)
    return replace(
        found,
        warnings=(warning,) if warning else (),
        enforces={camel(limit): level for limit, level in enforces.items()},
        probes=tuple(probes),
        template=_template(backend, why_no_template),
        warm=f"not used: {why_not_warm}" if why_not_warm else "used",
        forks=forks,
    )


def _forks(forks: Forks, backend: str, config: Config) -> Mapping[str, str]:
    reasons = {
        runtime.name: forks.why_not(backend, runtime.name)
        for runtime in config.runtimes.values()
        if runtime.fork
    }
    return {name: f"not used: {why}" if why else "used" for name, why in reasons.items()}


def _template(backend: Backend, why_not: str) -> str:
    if why_not == NOT_OFFERED and not knows_templates(backend):
        return ""
    return f"not used, each job has its own command: {why_not}" if why_not else "used"


async def _try_probe(
    probe: Probe, target: Target, backend: Backend, enforces: Mapping[str, str]
) -> ProbeReport:
    remedy = probe.remedy
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            finding = await probe.attempt(target)
    except ProbeFailed as failure:
        finding = Finding(False, str(failure))
        remedy = failure.remedy or remedy
    except TimeoutError:
        finding = Finding(False, f"the probe did not end within {PROBE_TIMEOUT_S:.0f} s")
    enforced_by = enforces.get(probe.limit, "")
    outcome: Outcome = "ok" if finding.held else "fails"
    if not probe.promised_by(backend) or enforced_by == "none":
        outcome = "not promised"
    return ProbeReport(
        name=probe.name,
        promise=probe.promise,
        outcome=outcome,
        detail=finding.detail,
        enforced_by=enforced_by,
        remedy=remedy if outcome == "fails" else "",
    )

"""Find out by running probes what each sandbox holds on this host, and tell how to mend it.

Each backend gets a service of its own in this process, with the operator's options for the
backends and the built-in limits: the probes set limits of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from streamer.compose import SERVICE, create_app
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
from streamer.doctor.trial import Finding, ProbeFailed, Trial
from streamer.errors import BackendUnavailable, ConfigError
from streamer.model.names import camel
from streamer.sandbox.cgroups import cgroup_tree
from streamer.sandbox.enforcement import enforcement
from streamer.spi import Backend

__all__ = ["BackendReport", "Outcome", "ProbeReport", "Report", "examine"]

CONCURRENCY: Final = 8
PROBE_TIMEOUT_S: Final = 30.0
KILL_GRACE_S: Final = 0.2


Outcome = Literal["ok", "fails", "not promised"]


class ProbeReport(msgspec.Struct, frozen=True, rename="camel"):
    """One probe's outcome. A promise that is not made is tried all the same: see `detail`."""

    name: str
    promise: str
    outcome: Outcome
    detail: str
    enforced_by: str = ""
    """For a limit, how it is enforced (`streamer.sandbox.enforcement`)."""
    remedy: str = ""


class BackendReport(msgspec.Struct, frozen=True, rename="camel"):
    """What is true of one backend here; without probes where it is not `available`."""

    name: str
    isolation: str
    available: bool
    reason: str = ""
    remedies: tuple[str, ...] = ()
    wrapper: WrapperFacts | None = None
    """The command that starts it, where there is one."""
    warnings: tuple[str, ...] = ()
    enforces: Mapping[str, str] = {}
    """Each limit and how it is enforced (`streamer.sandbox.enforcement`)."""
    probes: tuple[ProbeReport, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether it can be used and does all that it promises."""
        return self.available and all(probe.outcome != "fails" for probe in self.probes)


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """All that was found."""

    host: HostFacts
    configured: str
    """``sandbox.backend``; `chosen` is what it comes to, or empty where nothing works."""
    chosen: str
    backends: tuple[BackendReport, ...]
    ok: bool
    """Whether the chosen backend, and each that callers may choose besides, holds."""
    warnings: tuple[str, ...] = ()
    """What of the host jobs can use whatever their sandbox."""


async def examine(config: Config) -> Report:
    """Try every backend, which takes some seconds.

    Raises `ConfigError` and `PluginError` as `create_app` does, and `BackendUnavailable`
    when nothing can be tried at all.
    """
    with cgroup_tree(config.sandbox.cgroup) as tree:
        host = host_facts(tree.level if tree else None, config.sandbox.cgroup)
    service = create_app(_trial_config(config, config.sandbox.backend))[SERVICE]
    chosen = ""
    async with service.trial() as backends:
        reasons = await backends.reasons()
        with contextlib.suppress(BackendUnavailable):
            await backends.find_default()
            chosen = backends.default
    await service.engine.close()
    offered = {chosen or config.sandbox.backend, *config.sandbox.allow}
    reports = []
    # One after another, so that the lures tell which backend it was.
    for name, backend in sorted(backends.items(), key=lambda item: -item[1].isolation):
        found = BackendReport(
            name, backend.isolation.name.lower(), not reasons[name], reasons[name]
        )
        if found.available:
            # Requirements are for what jobs may get.
            own = _trial_config(config, name, required=name in offered)
            found = await _try_backend(found, own)
        command = str(getattr(backend, "path", ""))
        if not found.available:
            found = replace(found, remedies=tuple(remedies(host, name, command)))
        if wrapper := await asyncio.to_thread(wrapper_facts, command):
            warnings = tuple(wrapper_warnings(name, wrapper))
            found = replace(found, wrapper=wrapper, warnings=warnings)
        reports.append(found)
    return Report(
        host=host,
        configured=config.sandbox.backend,
        chosen=chosen,
        backends=tuple(reports),
        ok=bool(chosen) and all(report.holds for report in reports if report.name in offered),
        warnings=tuple(host_warnings(host)),
    )


def _trial_config(config: Config, backend: str, *, required: bool = False) -> Config:
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
    service = create_app(config)[SERVICE]
    backend = service.backends[found.name]
    try:
        async with lay_lures() as lures, service:
            enforces = enforcement(backend, service.cgroup_level)
            trial = Trial(service, lures)
            probes = await asyncio.gather(
                *(_try_probe(probe, trial, backend, enforces) for probe in PROBES)
            )
    except (BackendUnavailable, ConfigError) as error:
        return replace(found, available=False, reason=error.message)
    return replace(
        found,
        enforces={camel(limit): level for limit, level in enforces.items()},
        probes=tuple(probes),
    )


async def _try_probe(
    probe: Probe, trial: Trial, backend: Backend, enforces: Mapping[str, str]
) -> ProbeReport:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            finding = await probe.attempt(trial)
    except ProbeFailed as failure:
        finding = Finding(False, str(failure))
    except TimeoutError:
        finding = Finding(False, f"it was not over after {PROBE_TIMEOUT_S:.0f} s")
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
        remedy=probe.remedy if outcome == "fails" else "",
    )

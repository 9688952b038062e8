"""What workers can run: what each publishes, and all of them merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from streamer.model.job import JobFacts

__all__ = [
    "NOTHING",
    "UNTRIED",
    "Accepts",
    "Ahead",
    "BackendFacts",
    "Capabilities",
    "EnvironmentFacts",
    "merged",
    "public_reason",
]

UNTRIED: Final = "it is being tested; ask again in a moment"
"""The reason for a backend that was not tested yet."""


def public_reason(reason: str) -> str | None:
    """Return the reason in a form for callers: it may contain paths and messages of a wrapper."""
    if reason in ("", UNTRIED):
        return reason or None
    return "it does not work on this host; its operator sees why with: streamer doctor"


@dataclass(frozen=True, slots=True)
class BackendFacts:
    isolation: str
    """The name of its `streamer.spi.Isolation`, in lower case."""
    reason: str = ""
    """Why it cannot be used; empty if it can."""
    filtering: bool = False
    """Whether it can restrict a job to an allow-list of hosts."""
    terminals: bool = False
    """Whether its programs can have a terminal."""
    readable: bool = False
    """Whether files can be taken out of its workspaces."""
    enforces: Mapping[str, str] = field(default_factory=dict)
    """How each limit is enforced; see `streamer.sandbox.enforcement`."""


@dataclass(frozen=True, slots=True)
class EnvironmentFacts:
    reason: str = ""
    """Why it cannot be used; empty if it can."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """The packages that programs may rely on, and their versions."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """Which jobs a worker can run; a job with a command needs no language."""

    backends: frozenset[str]
    languages: frozenset[str]
    environments: frozenset[str] = frozenset()

    def takes(self, job: JobFacts) -> bool:
        return (
            job.backend in self.backends
            and (job.language is None or job.language in self.languages)
            and (job.environment is None or job.environment in self.environments)
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one worker, or several together, can run, and its present state."""

    backends: Mapping[str, BackendFacts]
    default: str
    """The backend for jobs that do not name one."""
    languages: frozenset[str]
    missing: Mapping[str, str]
    """The other configured languages, and why they cannot be run."""
    processors: int
    places: int
    """The number of jobs that it runs at a time."""
    cgroup_level: str | None = None
    """``cgroup-v1`` or ``cgroup-v2`` if jobs have control groups."""
    accepting: bool = True
    """Whether it claims jobs: its tasks run, and the engine answers."""
    trusted: bool = True
    """Whether the default backend works, by its last test and its last jobs."""
    resisting: int = 0
    """The number of ended jobs and templates with a process that resists SIGKILL."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of languages, as far as they are known."""
    environments: Mapping[str, EnvironmentFacts] = field(default_factory=dict)
    """The configured environments."""

    @property
    def accepts(self) -> Accepts:
        usable = {name for name, backend in self.backends.items() if not backend.reason}
        built = {name for name, facts in self.environments.items() if not facts.reason}
        return Accepts(frozenset(usable), self.languages, frozenset(built))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the worker of one process has done before the jobs."""

    held: Mapping[str, int] = field(default_factory=dict)
    """How many sandboxes wait for a job now, by backend."""
    warm: int = 0
    """How many jobs took one over with their program started in it."""
    opened: int = 0
    """How many took over a sandbox, and started their program."""
    cold: int = 0
    """How many found none."""
    forks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The languages whose programs are forked, by backend."""
    forked: int = 0
    """How many sandboxes were made to fork a program in."""


NOTHING: Final = Capabilities(
    backends={},
    default="",
    languages=frozenset(),
    missing={},
    processors=0,
    places=0,
    accepting=False,
    trusted=False,
)
"""The capabilities without any worker."""


def merged(workers: Sequence[Capabilities]) -> Capabilities:
    """Return the capabilities of several workers together.

    A backend, a language or an environment can be used if one of them has it. An allow-list of
    hosts, terminals and the files of workspaces can be used with a backend only if every worker
    that has it can, since any may get the job.
    """
    if len(workers) < 2:
        return workers[0] if workers else NOTHING
    backends: dict[str, BackendFacts] = {}
    for worker in workers:
        for name, facts in worker.backends.items():
            known = backends.get(name)
            backends[name] = facts if known is None else _either(known, facts)
    environments: dict[str, EnvironmentFacts] = {}
    for worker in workers:
        for name, built in worker.environments.items():
            other = environments.get(name)
            environments[name] = built if other is None else _common(other, built)
    languages = frozenset().union(*(worker.languages for worker in workers))
    missing = {
        name: reason
        for worker in workers
        for name, reason in worker.missing.items()
        if name not in languages
    }
    first = workers[0]
    return Capabilities(
        backends,
        default=first.default,
        languages=languages,
        missing=missing,
        processors=min(worker.processors for worker in workers),
        places=sum(worker.places for worker in workers),
        cgroup_level=first.cgroup_level,
        accepting=any(worker.accepting for worker in workers),
        trusted=any(worker.trusted for worker in workers),
        resisting=sum(worker.resisting for worker in workers),
        versions=_agreed(workers),
        environments=environments,
    )


def _agreed(workers: Sequence[Capabilities]) -> Mapping[str, str]:
    """Return the versions in which all workers that have a language have it."""
    told: dict[str, set[str]] = {}
    for worker in workers:
        for name in worker.languages:
            told.setdefault(name, set()).add(worker.versions.get(name, ""))
    return {name: min(all_) for name, all_ in told.items() if len(all_) == 1 and all_ != {""}}


def _common(one: EnvironmentFacts, other: EnvironmentFacts) -> EnvironmentFacts:
    """Return the one that can be used; if both can, the packages that both have."""
    if one.reason or other.reason:
        return other if one.reason else one
    packages = {
        name: version
        for name, version in one.packages.items()
        if other.packages.get(name) == version
    }
    return EnvironmentFacts(packages=packages)


def _either(one: BackendFacts, other: BackendFacts) -> BackendFacts:
    """Return the one that can be used; if both can, the weaker one, without what only one has."""
    if one.reason or other.reason:
        return other if one.reason else one
    weaker = one if other.filtering else other
    return replace(
        weaker,
        terminals=one.terminals and other.terminals,
        readable=one.readable and other.readable,
    )

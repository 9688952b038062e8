"""What workers can run: what each publishes, and all of them merged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from streamer.model.job import JobFacts, Lane
from streamer.model.session import ResolvedSession

__all__ = [
    "NOTHING",
    "NOT_OFFERED",
    "NOT_TESTED",
    "NOT_WANTED",
    "NO_ROOM",
    "SWITCHED_OFF",
    "UNTRIED",
    "Accepts",
    "Ahead",
    "BackendFacts",
    "Capabilities",
    "EnvironmentFacts",
    "able",
    "merged",
    "needs_template",
    "public_reason",
]

UNTRIED: Final = "it is being tested; ask again in a moment"
"""The reason for a backend that was not tested yet."""

# Why there is no template, and no program is started before its job, or forked.
NOT_TESTED: Final = "it has not been tested"
NOT_OFFERED: Final = "it has no template, or its options switch it off"
NOT_WANTED: Final = "the backend does not allow it"
NO_ROOM: Final = "there was no room for another"
SWITCHED_OFF: Final = "sandbox.warm is false"


def needs_template(why_not: str) -> str:
    """Return why no program is forked in a backend without a template."""
    return f"this needs a template: {why_not}"


HARMLESS: Final = frozenset(
    ("", UNTRIED, NOT_TESTED, NOT_WANTED, NO_ROOM, SWITCHED_OFF, needs_template(NOT_OFFERED))
)


def public_reason(reason: str) -> str | None:
    """Return the reason in a form for callers: it may contain paths and messages of a wrapper."""
    if reason in HARMLESS:
        return reason or None
    return "it does not work on this host; its operator sees why with: streamer doctor"


ISOLATIONS: Final = ("none", "deny_list", "namespaces", "virtual_machine")
"""The names of `streamer.spi.Isolation` in lower case, the strongest last."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    isolation: str
    """One of `ISOLATIONS`."""
    reason: str = ""
    """Why it cannot be used; empty if it can."""
    filtering: bool = False
    """Whether it can restrict a job to an allow-list of hosts."""
    terminals: bool = False
    """Whether its programs can have a terminal."""
    readable: bool = False
    """Whether files can be taken out of its workspaces."""
    sessions: bool = False
    """Whether its sandboxes can be kept by sessions."""
    keeps: bool = False
    """Whether these can keep what a program has left running."""
    tmp_bytes: int | None = None
    """The size of /tmp for a language that has none of its own; None if it gives /tmp no size."""
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

    def takes(self, job: JobFacts | Lane) -> bool:
        return (
            job.backend in self.backends
            and (job.language is None or job.language in self.languages)
            and (job.environment is None or job.environment in self.environments)
        )

    def opens(self, session: ResolvedSession) -> bool:
        return (
            session.backend in self.backends
            and self.languages.issuperset(session.languages)
            and (session.environment is None or session.environment in self.environments)
        )


@dataclass(frozen=True, slots=True)
class Ahead:
    """What one worker, or several together, have done before the jobs."""

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
    not_held: Mapping[str, str] = field(default_factory=dict)
    """Why no program is started before its job, by backend; empty where they are."""
    not_forked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Why programs are not forked that the configuration would have, by backend and language."""


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
    """The number of ended jobs and templates with a process that resists SIGKILL; of several
    workers the lowest."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of languages, as far as they are known."""
    environments: Mapping[str, EnvironmentFacts] = field(default_factory=dict)
    """The configured environments."""
    ahead: Ahead = field(default_factory=Ahead)

    @property
    def accepts(self) -> Accepts:
        usable = {name for name, backend in self.backends.items() if not backend.reason}
        built = {name for name, facts in self.environments.items() if not facts.reason}
        return Accepts(frozenset(usable), self.languages, frozenset(built))


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


def able(
    workers: Sequence[Capabilities], languages: Collection[str], environment: str | None
) -> Sequence[Capabilities]:
    """Return the workers that have all these languages and the environment.

    If none has them, it is all that have the one, or all: then one can say what is missing.
    """
    some = [worker for worker in workers if worker.languages.issuperset(languages)] or workers
    if environment is None:
        return some
    return [worker for worker in some if environment in worker.accepts.environments] or some


def merged(workers: Sequence[Capabilities]) -> Capabilities:
    """Return the capabilities of several workers together.

    A backend, a language or an environment can be used if one of them has it. An allow-list of
    hosts, terminals, the files of workspaces and sessions can be used with a backend only if every
    worker that has it can, since any may get the job. The default is the strongest one of them.
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
    # In any order of the workers, which the engine does not promise.
    first = max(workers, key=lambda worker: (_strength(worker), worker.places, worker.default))
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
        resisting=min(worker.resisting for worker in workers),
        versions=_agreed(workers),
        environments=environments,
        ahead=_ahead([worker.ahead for worker in workers]),
    )


def _ahead(each: Sequence[Ahead]) -> Ahead:
    held: Counter[str] = Counter()
    forks: dict[str, set[str]] = defaultdict(set)
    for one in each:
        held.update(one.held)
        for backend, languages in one.forks.items():
            forks[backend].update(languages)
    not_forked = {
        backend: {
            language: why
            for one in each
            for language, why in one.not_forked.get(backend, {}).items()
            if language not in forks[backend]
        }
        for backend in {name for one in each for name in one.not_forked}
    }
    return Ahead(
        held,
        warm=sum(one.warm for one in each),
        opened=sum(one.opened for one in each),
        cold=sum(one.cold for one in each),
        forks={backend: sorted(languages) for backend, languages in forks.items()},
        forked=sum(one.forked for one in each),
        not_held={
            backend: min(one.not_held[backend] for one in each if backend in one.not_held)
            for backend in {name for one in each for name in one.not_held}
        },
        not_forked=not_forked,
    )


def _strength(worker: Capabilities) -> int:
    facts = worker.backends.get(worker.default)
    return -1 if facts is None else ISOLATIONS.index(facts.isolation)


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
        sessions=one.sessions and other.sessions,
        keeps=one.keeps and other.keeps,
        tmp_bytes=max(one.tmp_bytes or 0, other.tmp_bytes or 0) or None,
    )

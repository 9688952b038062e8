"""Hold what workers can run: what each publishes, and what all of them have together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from streamer.model.job import JobFacts

__all__ = ["NOTHING", "UNTRIED", "Accepts", "BackendFacts", "Capabilities", "merged", "told"]

UNTRIED: Final = "it is being tried; ask again in a moment"
"""Why a backend cannot be used of which nothing is known yet."""


def told(reason: str) -> str | None:
    """Return what callers are told: the reason may hold paths and the words of a wrapper."""
    if reason in ("", UNTRIED):
        return reason or None
    return "it does not work on this host; its operator is told why by: streamer doctor"


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """One sandbox backend on one host."""

    isolation: str
    """The name of its `streamer.spi.Isolation`, in lower case."""
    reason: str = ""
    """Why it cannot be used, or nothing."""
    filtering: bool = False
    """Whether it can hold a job to an allow-list of hosts."""
    enforces: Mapping[str, str] = field(default_factory=dict)
    """How each limit is enforced; see `streamer.sandbox.enforcement`."""


@dataclass(frozen=True, slots=True)
class Accepts:
    """Which jobs a worker can run; one without a language needs none."""

    backends: frozenset[str]
    languages: frozenset[str]

    def takes(self, job: JobFacts) -> bool:
        """Tell whether a job is one of them."""
        return job.backend in self.backends and (
            job.language is None or job.language in self.languages
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one worker has, or several have together, and how it is with it now."""

    backends: Mapping[str, BackendFacts]
    default: str
    """The backend of jobs that name none."""
    languages: frozenset[str]
    missing: Mapping[str, str]
    """Why other languages that are configured cannot be run."""
    processors: int
    places: int
    """How many jobs it runs at a time."""
    cgroup_level: str | None = None
    """``cgroup-v1`` or ``cgroup-v2`` where jobs have control groups."""
    accepting: bool = True
    """Whether it claims jobs: it is at work, and the engine answers it."""
    trusted: bool = True
    """Whether the default backend works, as far as its trials and its last jobs tell."""
    resisting: int = 0
    """How many places are lost to ended jobs of which something resists its end."""

    @property
    def accepts(self) -> Accepts:
        """Which jobs it can run."""
        usable = {name for name, backend in self.backends.items() if not backend.reason}
        return Accepts(frozenset(usable), self.languages)


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
"""What there is without a worker."""


def merged(workers: Sequence[Capabilities]) -> Capabilities:
    """Return what several workers have together.

    A backend or a language can be used if one of them has it; and hosts can be listed for a
    backend only if each that has it can hold jobs to the list, since any of them may get the job.
    """
    if len(workers) < 2:
        return workers[0] if workers else NOTHING
    backends: dict[str, BackendFacts] = {}
    for worker in workers:
        for name, facts in worker.backends.items():
            known = backends.get(name)
            backends[name] = facts if known is None else _either(known, facts)
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
    )


def _either(one: BackendFacts, other: BackendFacts) -> BackendFacts:
    """Return the one that can be used; of two that can, the one that holds less."""
    if one.reason or other.reason:
        return other if one.reason else one
    return one if other.filtering else other

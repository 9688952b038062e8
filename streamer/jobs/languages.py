"""The configured languages, as callers in Python see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamer.model.capabilities import Capabilities
from streamer.model.runtime import Runtime

__all__ = ["Language", "listed"]


@dataclass(frozen=True, slots=True)
class Language:
    """One configured language.

    `version` is that of its tool, once a worker has asked it; None until then, and if workers have
    different ones. `entry` is the file that is run by default; if it is `compiled`, a compiler runs
    first. It is `available` if a worker can run it now.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    version: str | None
    entry: str
    compiled: bool
    available: bool


def listed(runtimes: Mapping[str, Runtime], workers: Capabilities) -> Sequence[Language]:
    """Return the languages in the order of their names."""
    known = {runtime.name: runtime for runtime in runtimes.values()}
    return [
        Language(
            name=name,
            title=runtime.title or name,
            aliases=runtime.aliases,
            version=workers.versions.get(name),
            entry=runtime.entry,
            compiled=bool(runtime.compile),
            available=name in workers.languages,
        )
        for name, runtime in sorted(known.items())
    ]

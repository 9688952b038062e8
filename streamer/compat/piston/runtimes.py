"""Our languages under the names that Piston has for them, and which of them a request means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import streamer
from streamer.compat.piston.versions import Version, satisfies, version_of

__all__ = ["Runtime", "chosen", "runtimes"]

NAMES: Final[Mapping[str, str]] = {"cpp": "c++", "r": "rscript", "sql": "sqlite3"}
"""What Piston calls some of our languages."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "bash": ("sh",),
    "c": ("gcc",),
    "c++": ("cpp", "g++"),
    "csharp": ("mono", "mono-csharp", "mono-c#", "mono-cs", "c#", "cs"),
    "javascript": ("node-javascript", "node-js", "js"),
    "pascal": ("freepascal", "pp", "pas"),
    "ruby": ("ruby3", "rb"),
    "sqlite3": ("sqlite", "sql"),
    "typescript": ("ts", "node-ts", "tsc"),
}
"""Its aliases for them, besides ours."""

PROVIDERS: Final[Mapping[str, str]] = {"c": "gcc", "c++": "gcc", "javascript": "node"}
"""What it says in ``runtime``."""

ASK_S: Final = 3.0
"""How long to wait until the tools have said their versions."""
LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Runtime:
    """A language that can be run, as Piston shows it; `name` is ours."""

    name: str
    language: str
    version: Version
    aliases: tuple[str, ...]
    entry: str
    compiled: bool

    @property
    def shown(self) -> str:
        return ".".join(map(str, self.version))

    def document(self) -> dict[str, object]:
        told: dict[str, object] = {
            "language": self.language,
            "version": self.shown,
            "aliases": self.aliases,
        }
        provider = PROVIDERS.get(self.language)
        return told if provider is None else {**told, "runtime": provider}


async def runtimes(caller: streamer.Caller) -> Sequence[Runtime]:
    """Return the languages that can be run now, with their versions.

    The first who asks waits until their tools have said them, for a limited time; one whose version
    is not known has 0.0.0.
    """
    waited = 0.0
    while True:
        found = [one for one in await caller.languages() if one.available and _is_language(one)]
        if waited >= ASK_S or all(one.version for one in found):
            return [_runtime(one) for one in found]
        await asyncio.sleep(LOOK_S)
        waited += LOOK_S


def chosen(
    known: Sequence[Runtime], language: str, version: str, *, any_version: bool
) -> Runtime | None:
    """Return the newest of the runtimes that a request means, or None."""
    fitting = [
        one
        for one in known
        if language in (one.language, *one.aliases)
        and (any_version or satisfies(one.version, version))
    ]
    return max(fitting, key=lambda one: one.version, default=None)


def _is_language(language: streamer.Language) -> bool:
    """Tell whether it is a language, or a version of one, and not one for another service."""
    _, at, said = language.name.partition("@")
    return not at or said[:1].isdigit()


def _runtime(language: streamer.Language) -> Runtime:
    base, _, said = language.name.partition("@")
    name = NAMES.get(base, base)
    aliases = dict.fromkeys((*ALIASES.get(name, ()), *language.aliases, base))
    return Runtime(
        name=language.name,
        language=name,
        version=version_of(language.version or said),
        aliases=tuple(alias for alias in aliases if alias != name),
        entry=language.entry,
        compiled=language.compiled,
    )

"""Build the commands of one job from a language's templates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from streamer.model.runtime import Runtime

__all__ = ["build_steps"]

PLACE: Final = re.compile(r"\{(?:entry|folder|stem)\}")


def build_steps(
    runtime: Runtime, entry: str, names: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that compile (or ``()``) and that run a program of the files `names`."""
    others = sorted(name for name in names if name != entry and _is_source(runtime, name))
    sources = [_operand(name) for name in (entry, *others)]
    place = PurePosixPath(entry)
    folder = "." if place.parent == PurePosixPath() else f"./{place.parent}"
    parts = {"{entry}": entry, "{folder}": folder, "{stem}": place.stem}

    def fill(template: tuple[str, ...]) -> tuple[str, ...]:
        words: list[str] = []
        for word in template:
            if word == "{sources}":
                words += sources
            elif word == "{entry}":
                words.append(_operand(entry))
            else:
                words.append(PLACE.sub(lambda found: parts[found[0]], word))
        return tuple(words)

    return fill(runtime.compile), fill(runtime.run)


def _is_source(runtime: Runtime, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in runtime.sources)


def _operand(name: str) -> str:
    """Prevent that a file name is parsed as an option."""
    return f"./{name}" if name.startswith("-") else name

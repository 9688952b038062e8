"""Build the commands of one job from a language's templates."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from streamer.errors import InvalidJob
from streamer.model.runtime import Runtime

__all__ = ["MAX_COMMAND_BYTES", "SOURCE_BYTES", "build_steps", "checked_steps"]

PLACE: Final = re.compile(r"\{(?:entry|folder|stem|class|root)\}")

MAX_COMMAND_BYTES: Final = 2 * 1024 * 1024
"""A quarter of the usual stack limit (execve(2))."""

SOURCE_BYTES: Final = 64 * 1024
"""How much of an entry is searched for its package, which only comments come before."""
PACKAGE: Final = re.compile(
    r"(?:\s++|//[^\n]*+|/\*(?s:.*?)\*/)*+package\s++([\w$]++(?:\.[\w$]++)*+)\s*+;"
)
WILD: Final = re.compile(r"[*?[]")


def checked_steps(
    runtime: Runtime, entry: str, names: Iterable[str], source: bytes, path: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what `build_steps` does, unless it is too long to be run: raises `InvalidJob`.

    `path` is where the names are in the request.
    """
    compile_argv, run_argv = build_steps(runtime, entry, names, source)
    size = sum(len(word.encode()) + 1 for word in (*compile_argv, *run_argv))
    if size > MAX_COMMAND_BYTES:
        raise InvalidJob(
            f"the commands have {size} bytes with the names of all source files: "
            f"{MAX_COMMAND_BYTES} at most",
            path=path,
        )
    return compile_argv, run_argv


def build_steps(
    runtime: Runtime, entry: str, names: Iterable[str], source: bytes = b""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that compile (or ``()``) and that run a program of the files `names`.

    `source` is the beginning of the entry.
    """
    others = sorted(name for name in names if name != entry and _is_source(runtime, name))
    sources = [_operand(name) for name in (entry, *others)]
    place = PurePosixPath(entry)
    folder = "." if place.parent == PurePosixPath() else f"./{place.parent}"
    parts = {"{entry}": entry, "{folder}": folder, "{stem}": place.stem}
    if runtime.names_class:
        package = _package(source)
        parts["{class}"] = package + place.stem
        parts["{root}"] = folder.removesuffix("/" + package.replace(".", "/").rstrip("/"))

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


def _package(source: bytes) -> str:
    """Return the package that a source declares, with a dot at its end, or ``""``."""
    declared = PACKAGE.match(source[:SOURCE_BYTES].decode(errors="replace"))
    return f"{declared[1]}." if declared else ""


def _is_source(runtime: Runtime, name: str) -> bool:
    # As in a shell a pattern does not stand for what is hidden: not for an editor's lock, and not
    # for the ._Main.java that macOS puts into archives beside each file, which is none.
    if name[:1] == "." or "/." in name:
        return False
    # A project may have 20,000 long names, and most patterns are just endings.
    endings, others, without = _patterns(runtime.sources)
    if name.endswith(endings) or any(fnmatchcase(name, pattern) for pattern in others):
        return not any(fnmatchcase(name, pattern) for pattern in without)
    return False


@functools.cache
def _patterns(
    patterns: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the endings that patterns such as ``*.c`` stand for, others, and those with ``!``."""
    without = tuple(one[1:] for one in patterns if one[:1] == "!")
    wanted = [one for one in patterns if one[:1] != "!"]
    endings = tuple(one[1:] for one in wanted if one[:1] == "*" and not WILD.search(one[1:]))
    others = tuple(one for one in wanted if one[1:] not in endings or one[:1] != "*")
    return endings, others, without


def _operand(name: str) -> str:
    """Prevent that a file name is parsed as an option, or as a file of options (gcc, javac)."""
    return f"./{name}" if name.startswith(("-", "@")) else name

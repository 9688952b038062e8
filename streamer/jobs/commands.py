"""Build the commands of one job from a language's templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from streamer.model.job import MIB, Limits
from streamer.model.runtime import SIZES, Runtime

__all__ = ["build_steps", "sized"]


def sized(runtime: Runtime, compiling: Limits, running: Limits, processors: int) -> Runtime:
    """Return the runtime with its placeholders for sizes replaced by the limits of a job.

    Variables are those of the program that runs; `processors` is how many it may run on.
    """
    words = (*runtime.compile, *runtime.run, *runtime.env.values())
    if not any(placeholder in word for word in words for placeholder in SIZES):
        return runtime

    def fill(text: str, limits: Limits) -> str:
        values = (limits.memory_bytes, limits.memory_bytes // MIB, processors)
        for placeholder, value in zip(SIZES, values, strict=True):
            text = text.replace(placeholder, str(value))
        return text

    return replace(
        runtime,
        compile=tuple(fill(word, compiling) for word in runtime.compile),
        run=tuple(fill(word, running) for word in runtime.run),
        env={name: fill(value, running) for name, value in runtime.env.items()},
    )


def build_steps(
    runtime: Runtime, entry: str, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that compile (or ``()``) and that run a program of the files `names`."""
    others = sorted(name for name in names if name != entry and _is_source(runtime, name))
    sources = [_operand(name) for name in (entry, *others)]

    def fill(template: tuple[str, ...]) -> tuple[str, ...]:
        words: list[str] = []
        for word in template:
            if word == "{sources}":
                words += sources
            elif word == "{entry}":
                words.append(_operand(entry))
            else:
                words.append(word.replace("{entry}", entry))
        return tuple(words)

    return fill(runtime.compile), fill(runtime.run)


def _is_source(runtime: Runtime, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in runtime.sources)


def _operand(name: str) -> str:
    """Prevent that a file name is parsed as an option."""
    return f"./{name}" if name.startswith("-") else name

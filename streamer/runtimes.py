"""Describe the languages: what runs a program, and whether the host has it.

A runtime is data. To add one, write ``[runtimes.NAME]`` in config.toml, or a row here.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from streamer.checked import check_keys, explain, merge
from streamer.errors import ConfigError
from streamer.jobs import MIB, Limits

__all__ = [
    "DEFAULT_RUNTIMES",
    "Runtime",
    "Tool",
    "build_steps",
    "by_name",
    "extended",
    "find_tool",
    "missing_tools",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9+#_-]*")
"""No dots, so that the dotted name of a setting is never ambiguous."""
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACEHOLDER: Final = re.compile(r"\{\w+\}")


@dataclass(frozen=True, slots=True)
class Runtime:
    """One language: which commands compile and run a program of it.

    `compile` runs first and has to succeed; empty for an interpreted language. In both
    commands ``{entry}`` stands for the entry file, and a word that is ``{sources}``
    becomes the entry and all files that match the patterns in `sources`. The caller's
    arguments follow `run`. No shell is involved.

    `read_only` are paths of the host that programs need besides the system's own. `limits`
    is what the language needs *more* of than ``limits.default`` gives, by the names there.
    `version` is a command that prints the version. Raises `ConfigError`.
    """

    name: str
    run: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    entry: str = "main"
    compile: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    read_only: tuple[str, ...] = ()
    limits: Mapping[str, int | float] = field(default_factory=dict)
    version: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, wrong in self._faults():
            raise ConfigError(f"runtimes.{self.name}.{key}: {wrong}")

    def _faults(self) -> Iterator[tuple[str, str]]:
        for name in (self.name, *self.aliases):
            if not NAME.fullmatch(name):
                yield "aliases", f"{name!r}: a name has a-z, 0-9 and + # _ - only"
        entry = PurePosixPath(self.entry)
        if not self.entry or entry.is_absolute() or ".." in entry.parts:
            yield "entry", f"{self.entry!r}: write a relative file name without .."
        if not self.run:
            yield "run", "it is empty; write the command that runs a program"
        yield from self._placeholder_faults()
        for name, value in self.env.items():
            if not VARIABLE.fullmatch(name) or "\0" in value:
                yield f"env.{name}", "a name has letters, digits and _ only, and a value no NUL"
        for path in self.read_only:
            if not path.startswith("/"):
                yield "read_only", f"{path!r}: write an absolute path"
        yield from self._limit_faults()

    def _placeholder_faults(self) -> Iterator[tuple[str, str]]:
        for key, command in (("compile", self.compile), ("run", self.run)):
            for word in command:
                if PLACEHOLDER.fullmatch(word) and word not in ("{entry}", "{sources}"):
                    yield key, f"{word} stands for nothing; there are {{entry}} and {{sources}}"
            if "{sources}" in command and not self.sources:
                yield "sources", '{sources} is used, so write patterns such as ["*.c"]'

    def _limit_faults(self) -> Iterator[tuple[str, str]]:
        types = {limit.name: type(limit.default) for limit in fields(Limits)}
        for name, value in self.limits.items():
            if name not in types:
                yield f"limits.{name}", f"there is no such limit; there are {', '.join(types)}"
            elif types[name] is int and not isinstance(value, int):
                yield f"limits.{name}", "expected a whole number"
            elif not (math.isfinite(value) and value > 0):
                yield f"limits.{name}", f"{value} is not a positive number"


DEFAULT_RUNTIMES: Final[Mapping[str, Runtime]] = {
    runtime.name: runtime
    for runtime in (
        Runtime(
            name="python",
            aliases=("py", "python3"),
            entry="main.py",
            run=("python3", "{entry}"),
            # Unbuffered: a pipe would hold the output back until 8 KiB are together.
            env={"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            version=("python3", "--version"),
        ),
        Runtime(
            name="javascript",
            aliases=("js", "node"),
            entry="main.js",
            run=("node", "{entry}"),
            limits={"memory_bytes": 512 * MIB},
            version=("node", "--version"),
        ),
        Runtime(
            name="bash",
            aliases=("shell",),
            entry="main.sh",
            run=("bash", "{entry}"),
            version=("bash", "--version"),
        ),
        # The C library holds output to a pipe back until 4 KiB are together; stdbuf makes
        # it go out by lines (it preloads a library, so a static program is not reached).
        Runtime(
            name="c",
            aliases=("cc", "gcc"),
            entry="main.c",
            sources=("*.c",),
            compile=("cc", "-O1", "-o", "a.out", "{sources}", "-lm"),
            run=("stdbuf", "-oL", "./a.out"),
            version=("cc", "--version"),
        ),
        Runtime(
            name="cpp",
            aliases=("c++", "cxx"),
            entry="main.cpp",
            sources=("*.cpp", "*.cc", "*.cxx"),
            compile=("c++", "-O1", "-std=gnu++20", "-o", "a.out", "{sources}"),
            run=("stdbuf", "-oL", "./a.out"),
            # g++ takes 310 MiB for a program that includes the whole standard library.
            limits={"memory_bytes": 768 * MIB},
            version=("c++", "--version"),
        ),
    )
}


def extended(tables: Mapping[str, Any]) -> dict[str, Runtime]:
    """Return the built-in runtimes with the tables ``[runtimes.NAME]`` laid over them.

    Raises `ConfigError` that names the key.
    """
    known = {key.name for key in fields(Runtime)} - {"name"}
    runtimes = dict(DEFAULT_RUNTIMES)
    for name, table in tables.items():
        place = f"runtimes.{name}"
        below = msgspec.to_builtins(runtimes[name]) if name in runtimes else {"name": name}
        try:
            runtimes[name] = msgspec.convert(merge(below, check_keys(table, known, place)), Runtime)
        except msgspec.ValidationError as error:
            key, wrong = explain(error, place)
            raise ConfigError(f"{key}: {wrong}") from None
    return runtimes


@dataclass(frozen=True, slots=True)
class Tool:
    """The program that a runtime starts with on this host: `path`, or the `reason` for none."""

    name: str
    path: str | None
    reason: str = ""


def by_name(runtimes: Mapping[str, Runtime]) -> dict[str, Runtime]:
    """Return the runtimes by name and by alias. Raises `ConfigError` where two share one."""
    names: dict[str, Runtime] = {}
    for runtime in runtimes.values():
        for name in (runtime.name, *runtime.aliases):
            other = names.setdefault(name, runtime)
            if other is not runtime:
                raise ConfigError(
                    f"runtimes.{runtime.name}.aliases: {name!r} is a name of the runtime "
                    f"{other.name!r} too; take it from one of them"
                )
    return names


def find_tool(runtime: Runtime, path: str) -> Tool:
    """Look in `path` for what compiles and runs programs of the language.

    `path` is the jobs' PATH, not the service's: what only a version manager's shim in
    somebody's home provides is not there for a job.
    """
    first = Tool(runtime.run[0], None)
    for command in (runtime.run, runtime.compile):
        if not command or command[0].startswith(("./", "{")):
            continue  # the program itself
        found = shutil.which(command[0], path=path)
        if found is None:
            where = "" if "/" in command[0] else f" in {path}"
            reason = f"{command[0]} is not installed: looked for `{command[0]}`{where}"
            return Tool(command[0], None, reason)
        first = Tool(command[0], found)
    return first


def missing_tools(runtimes: Mapping[str, Runtime], path: str) -> dict[str, str]:
    """Return why runtimes cannot be used on this host, by name; those that can are not in it."""
    tools = {name: find_tool(runtime, path) for name, runtime in runtimes.items()}
    return {name: tool.reason for name, tool in tools.items() if tool.reason}


def build_steps(
    runtime: Runtime, entry: str, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commands that compile, or (), and that run a program of the files `names`."""
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
    """Keep a file name from being taken for an option."""
    return f"./{name}" if name.startswith("-") else name

"""Describe the languages: what runs a program, and whether the host has it.

A runtime is data. To add one, write ``[runtimes.NAME]`` in config.toml, or a row here.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from streamer.config.tree import check_keys, explain, merge
from streamer.errors import ConfigError
from streamer.model.job import MIB, Limits

__all__ = [
    "DEFAULT_RUNTIMES",
    "Runtime",
    "Tool",
    "build_steps",
    "by_name",
    "extended",
    "find_tool",
    "is_secret",
    "missing_path",
    "missing_tools",
    "sized",
    "told_missing",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9+#_-]*")
"""No dots, so that the dotted name of a setting is never ambiguous."""
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACEHOLDER: Final = re.compile(r"\{\w+\}")
SIZES: Final = ("{memory_bytes}", "{memory_mb}", "{processors}")
"""Placeholders for what a program may use, for those that size themselves by the host."""

SECRETS: Final = (
    *("passwd*", "shadow*", "group*", "gshadow*", "subuid*", "subgid*", "master.passwd"),
    *("sudoers*", "ssh", "ssl/private", "pki/tls/private", "krb5*", "machine-id"),
    *("security", "pam*", "hosts", "hostname", "nsswitch.conf", "ld.so.preload"),
)
"""What in /etc is of accounts, holds secrets, or decides over programs: no job is shown it."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One language: which commands compile and run a program of it.

    `compile` runs first and has to succeed; empty for an interpreted language. In both
    commands ``{entry}`` stands for the entry file, and a word that is ``{sources}``
    becomes the entry and all files that match the patterns in `sources`. The caller's
    arguments follow `run`. No shell is involved.

    ``{memory_bytes}``, ``{memory_mb}`` (MiB) and ``{processors}`` in both commands and in `env`
    are what the job may use: the host's own are not its.

    `compile_input` is what the compiler reads from its standard input: a further source of the
    runtime's own, say. `read_only` are paths of the host that programs need besides the system's
    own, and `etc` what they need in /etc besides what all get. `limits` is what the language needs
    *more* of than ``limits.default`` gives, by the names there. `version` is a command that prints
    the version. Raises `ConfigError`.
    """

    name: str
    run: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    entry: str = "main"
    compile: tuple[str, ...] = ()
    compile_input: str = ""
    sources: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
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
            yield from self._path_faults(path)
        yield from self._etc_faults()
        yield from self._limit_faults()

    def _path_faults(self, path: str) -> Iterator[tuple[str, str]]:
        if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
            yield "read_only", f"{path!r}: write an absolute path without .."
        elif posixpath.normpath(path) in ("/", "//", "/etc", "/tmp", "/work"):  # noqa: S108
            yield "read_only", f"{path!r} would hide the sandbox's own; name a folder in it"
        elif PurePosixPath(path).parts[1] in ("proc", "dev"):
            yield "read_only", f"{path!r}: a sandbox has its own /proc and /dev"

    def _etc_faults(self) -> Iterator[tuple[str, str]]:
        for name in self.etc:
            parts = PurePosixPath(name).parts
            if not parts or parts[0] == "/" or ".." in parts or name[0] in "*?[":
                yield "etc", f"{name!r}: write a name in /etc, such as php or java-*"
            elif is_secret(name):
                yield "etc", f"{name!r} is of accounts, secrets or the sandbox's own"

    def _placeholder_faults(self) -> Iterator[tuple[str, str]]:
        for key, command in (("compile", self.compile), ("run", self.run)):
            for word in command:
                known = ("{entry}", "{sources}", *SIZES)
                if PLACEHOLDER.fullmatch(word) and word not in known:
                    yield key, f"{word} stands for nothing; there are {', '.join(known)}"
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


LINE_BUFFERED: Final = """\
#include <stdio.h>
__attribute__((constructor)) static void streamer_line_buffered(void)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    setvbuf(stdin, 0, _IOLBF, 0);
}
"""
"""Linked into each program in C and C++, whose library would hold output to a pipe back until 4 KiB
are together. glibc also writes what there is of a line when a line-buffered input is read
(_IO_new_file_underflow), so a prompt comes before its answer as on a terminal. A preloaded library
could not do that, is not loaded by static programs, and is refused by AddressSanitizer."""

NO_LEAK_CHECK: Final = {"ASAN_OPTIONS": "detect_leaks=0"}
"""LeakSanitizer needs ptrace(2), which no sandbox has, and ends a program without faults."""

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
            # Else it makes room for a heap of the host's size, and collects too late.
            run=("node", "--max-old-space-size={memory_mb}", "{entry}"),
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
        Runtime(
            name="c",
            aliases=("cc", "gcc"),
            entry="main.c",
            sources=("*.c",),
            compile=("cc", "-O1", "-o", "a.out", "{sources}", "-x", "c", "-", "-lm"),
            compile_input=LINE_BUFFERED,
            run=("./a.out",),
            env=NO_LEAK_CHECK,
            version=("cc", "--version"),
        ),
        Runtime(
            name="cpp",
            aliases=("c++", "cxx"),
            entry="main.cpp",
            sources=("*.cpp", "*.cc", "*.cxx"),
            compile=("c++", "-O1", "-std=gnu++20", "-o", "a.out", "{sources}", "-x", "c++", "-"),
            compile_input=LINE_BUFFERED,
            run=("./a.out",),
            env=NO_LEAK_CHECK,
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
    reasons = {
        name: missing_path(runtime) or find_tool(runtime, path).reason
        for name, runtime in runtimes.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def told_missing(reason: str) -> str:
    """Return what callers are told of such a reason: the name of a tool, and no path."""
    tool, separator, _ = reason.partition(" is not installed")
    if separator and "/" not in tool:
        return f"{tool} is not installed on this host"
    return "it is not set up on this host; its operator is told why by: streamer runtimes"


def missing_path(runtime: Runtime) -> str:
    """Return which path of the configuration is not there, with its key, or nothing."""
    for path in runtime.read_only:
        if not Path(path).exists():
            return f"runtimes.{runtime.name}.read_only: {path} does not exist on this host"
    return ""


def is_secret(name: str) -> bool:
    """Tell whether a name or pattern in /etc is, or holds, what no job is shown (`SECRETS`)."""
    return any(
        fnmatchcase(name, secret) or fnmatchcase(name, f"{secret}/*") or _within(secret, name)
        for secret in SECRETS
    )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def sized(runtime: Runtime, compiling: Limits, running: Limits) -> Runtime:
    """Return the runtime with its placeholders for sizes filled from the limits of a job.

    Variables are those of the program that runs.
    """
    processors = len(os.sched_getaffinity(0))

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

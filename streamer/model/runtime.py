"""One language as data: the commands that compile and run its programs, and what they need."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, Final

from streamer.errors import ConfigError
from streamer.model.job import MIB, Limits
from streamer.model.sizes import MOST_SIZE

__all__ = [
    "PYTHON",
    "SIZES",
    "VARIABLE",
    "Runtime",
    "by_name",
    "is_secret",
    "public_tool_reason",
    "sized",
]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9+#_-]*(@[A-Za-z0-9][A-Za-z0-9.+_-]*)?")
"""Dots only in a version: elsewhere the dotted name of a setting must stay unambiguous."""
WRONG_NAME: Final = (
    "use only a-z, 0-9 and + # _ - in a name, and begin with a letter or digit; "
    "@ and a version may follow, as in python@3.12"
)
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PYTHON: Final = re.compile(r"python3?(\.\d+)?")
CANNOT_FORK: Final = (
    'only programs of Python can be forked, with run = ["python3", "{entry}"], without compile and '
    "without variables LD_*"
)
PLACEHOLDER: Final = re.compile(r"\{\w+\}")
SIZES: Final = ("{memory_bytes}", "{memory_mb}", "{processors}")
"""Placeholders for the job's limits, for programs that otherwise size themselves by the host."""
PLACES: Final = ("{entry}", "{folder}", "{stem}", "{class}", "{root}", "{sources}")
"""Placeholders for the program's files."""

SECRETS: Final = (
    *("passwd*", "shadow*", "group*", "gshadow*", "subuid*", "subgid*", "master.passwd"),
    *("sudoers*", "ssh", "ssl/private", "pki/tls/private", "krb5*", "machine-id"),
    *("security", "pam*", "hosts", "hostname", "nsswitch.conf", "ld.so.preload"),
)
"""Names in /etc that no job sees: accounts, secrets, and what decides which programs run."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One language: the commands that compile and run a program in it.

    `compile` runs first and must succeed; it is empty for an interpreted language. In both
    commands ``{entry}`` stands for the entry file, ``{folder}`` for its folder (``.`` or
    ``./src``), ``{stem}`` for its name without folder and ending, ``{class}`` for the same with the
    package that it declares, as in Java (``org.example.Main``), ``{root}`` for the folder above
    those of the package, and a word that is ``{sources}`` becomes the entry file and all files that
    match the patterns in `sources` and none that has a ``!`` before it. The caller's arguments
    follow `run`. No shell is involved.

    ``{memory_bytes}``, ``{memory_mb}`` (MiB) and ``{processors}``, in both commands and in `env`,
    are the job's limits and not the host's figures.

    `title` is the name that people read. `compile_input` is the compiler's standard input, for
    example one more source file of the runtime. `files` are small files, by their names, that are
    put beside the program's. `read_only` are host paths that programs need besides the system's;
    one that begins with ``-`` may be missing. `etc` are names in /etc that they need besides those
    that every job gets. `limits` raises ``limits.default`` for this language. `tmp_bytes` is the
    size of /tmp while a program is compiled and while it runs; with 0 it is that of the sandbox.
    `version` is a command that prints the version. With `warm` the program of an interpreted
    language may be started before its job. With `fork` it may be forked from a Python that runs
    already, one for each tenant. With `terminal` the standard output of its programs is a
    pseudo-terminal, for a language that writes lines at once to nothing else. Raises `ConfigError`.
    """

    name: str
    run: tuple[str, ...]
    title: str = ""
    aliases: tuple[str, ...] = ()
    entry: str = "main"
    compile: tuple[str, ...] = ()
    compile_input: str = ""
    sources: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    read_only: tuple[str, ...] = ()
    etc: tuple[str, ...] = ()
    limits: Mapping[str, int | float] = field(default_factory=dict)
    tmp_bytes: int = 0
    version: tuple[str, ...] = ()
    warm: bool = True
    fork: bool = False
    terminal: bool = False

    def __post_init__(self) -> None:
        for key, wrong in self._faults():
            raise ConfigError(f"{f'runtimes.{self.name}.{key}'.rstrip('.')}: {wrong}")

    def _faults(self) -> Iterator[tuple[str, str]]:
        if not NAME.fullmatch(self.name):
            yield "", WRONG_NAME
        for name in self.aliases:
            if not NAME.fullmatch(name):
                yield "aliases", f"{name!r}: {WRONG_NAME}"
        for key, name in (("entry", self.entry), *(("files", name) for name in self.files)):
            at = PurePosixPath(name)
            if not at.parts or at.is_absolute() or ".." in at.parts or "\0" in name:
                yield key, f"{name!r}: write a relative file name without .."
        if not self.run:
            yield "run", "empty; write the command that runs a program"
        yield from self._placeholder_faults()
        yield from self._variable_faults()
        if self.fork and not self._can_fork:
            yield "fork", CANNOT_FORK
        if self.fork and self.terminal:
            yield "terminal", "a program that is forked has no terminal: switch one of them off"
        for path in self.read_only:
            yield from self._path_faults(path.removeprefix("-"))
        yield from self._etc_faults()
        yield from self._limit_faults()

    def _variable_faults(self) -> Iterator[tuple[str, str]]:
        for name, value in self.env.items():
            if not VARIABLE.fullmatch(name) or "\0" in value:
                yield (
                    f"env.{name}",
                    "use only letters, digits and _ in the name, and no NUL in the value",
                )

    @property
    def _can_fork(self) -> bool:
        program, *words = self.run or ("",)
        preloads = any(name.startswith("LD_") for name in self.env)
        python = PYTHON.fullmatch(posixpath.basename(program))
        return bool(python) and words == ["{entry}"] and not (self.compile or preloads)

    @property
    def base(self) -> str:
        """The name of the language without a version."""
        return self.name.partition("@")[0]

    @property
    def names_class(self) -> bool:
        """Whether a command has ``{class}`` or ``{root}``, for which the entry must be read."""
        words = (*self.compile, *self.run)
        return any(place in word for word in words for place in ("{class}", "{root}"))

    def raised(self, default: Limits, ceiling: Limits) -> Limits:
        """Return the default limits, raised for the language up to the ceiling."""
        changes: dict[str, Any] = {
            name: min(max(getattr(default, name), value), getattr(ceiling, name))
            for name, value in self.limits.items()
        }
        return replace(default, **changes)

    def _path_faults(self, path: str) -> Iterator[tuple[str, str]]:
        if not path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
            yield "read_only", f"{path!r}: write an absolute path without .."
        elif posixpath.normpath(path) in ("/", "//", "/etc", "/tmp", "/work"):  # noqa: S108
            yield "read_only", f"{path!r} would hide a folder of the sandbox; name a folder in it"
        elif PurePosixPath(path).parts[1] in ("proc", "dev"):
            yield "read_only", f"{path!r}: the sandbox has its own /proc and /dev"

    def _etc_faults(self) -> Iterator[tuple[str, str]]:
        for name in self.etc:
            parts = PurePosixPath(name).parts
            if not parts or parts[0] == "/" or ".." in parts or name[0] in "*?[":
                yield "etc", f"{name!r}: write a name in /etc, such as php or java-*"
            elif is_secret(name):
                yield "etc", f"{name!r} holds accounts or secrets, or is the sandbox's own"

    def _placeholder_faults(self) -> Iterator[tuple[str, str]]:
        for key, command in (("compile", self.compile), ("run", self.run)):
            for word in command:
                known = (*PLACES, *SIZES)
                if PLACEHOLDER.fullmatch(word) and word not in known:
                    yield key, f"unknown placeholder {word}; known: {', '.join(known)}"
            if "{sources}" in command and not self.sources:
                yield "sources", 'a command uses {sources}; write patterns such as ["*.c"]'

    def _limit_faults(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.tmp_bytes <= MOST_SIZE:
            yield "tmp_bytes", f"{self.tmp_bytes} is not a size; write bytes, such as 67_108_864"
        types = {limit.name: type(limit.default) for limit in fields(Limits)}
        for name, value in self.limits.items():
            if name not in types:
                yield f"limits.{name}", f"unknown limit; known: {', '.join(types)}"
            elif types[name] is int and not isinstance(value, int):
                yield f"limits.{name}", "expected a whole number"
            elif not (math.isfinite(value) and value > 0):
                yield f"limits.{name}", f"{value} is not a positive number"


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


def by_name(runtimes: Mapping[str, Runtime]) -> dict[str, Runtime]:
    """Return the runtimes by name and by alias. Raises `ConfigError` if two share one."""
    names: dict[str, Runtime] = {}
    for runtime in runtimes.values():
        for name in (runtime.name, *runtime.aliases):
            other = names.setdefault(name, runtime)
            if other is not runtime and name == runtime.name:
                raise ConfigError(
                    f"runtimes.{name}: this is another name of runtimes.{other.name}: write that"
                )
            if other is not runtime:
                raise ConfigError(
                    f"runtimes.{runtime.name}.aliases: {name!r} is also a name of the runtime "
                    f"{other.name!r}; remove it from one of them"
                )
    return names


def public_tool_reason(reason: str) -> str:
    """Return the reason in a form that callers may see: with a tool's name, without paths."""
    tool, separator, _ = reason.partition(" is not installed")
    if separator and "/" not in tool:
        return f"{tool} is not installed on this host"
    return "it is not set up on this host; its operator sees why with: streamer runtimes"


def is_secret(name: str) -> bool:
    """Tell whether a name or pattern in /etc is one of `SECRETS`, or a folder of one."""
    return any(
        fnmatchcase(name, secret) or fnmatchcase(name, f"{secret}/*") or _within(secret, name)
        for secret in SECRETS
    )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")

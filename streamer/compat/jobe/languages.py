"""The languages of Jobe: how each one's programs are compiled and run, as shell commands.

Jobe runs its commands with a shell, and the parameters of a run (``compileargs``, ``linkargs``,
``interpreterargs``, ``runargs``) are words of these commands, which authors of questions quote for
the shell. So a job brings both commands as small scripts, and the runtimes of this dialect execute
them in the sandbox: `BUILD` compiles, `RUN` is the program.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["BUILD", "LANGUAGES", "RUN", "RUNTIMES", "Language", "main_class", "with_packages"]

BUILD: Final = ".streamer/build.sh"
RUN: Final = ".streamer/run.sh"

BY_SCRIPT: Final = '[ -r {script} ] || exec "$0" "$@"; . ./{script}'
"""With its tool as the words after it; without a script of the job it just executes them."""

PATH: Final = "/usr/local/bin:/usr/bin:/bin"

JAVA: Final = ("-XX:ActiveProcessorCount={processors}", "-XX:+UseSerialGC")
JAVAC: Final = tuple(f"-J{option}" for option in (*JAVA, "-XX:TieredStopAtLevel=1"))
"""By default it sizes its collectors and compilers by the host."""

MAIN: Final = re.compile(
    r"\bpublic\s++class\s++(\w++)"
    r"|\b(?:public\s++static|static\s++public)\s++void\s++main\s*+\(\s*+String"
)


@dataclass(frozen=True, slots=True)
class Language:
    """One language as Jobe has it; `language` is our name for it.

    In `build` and `run` ``$0`` is the tool, ``{source}`` the source file and ``{class}`` its name
    without ending; ``{NAMEargs}`` are those parameters of the run. `file_name` is what a source
    without a name is called. `memory_mb` and `processes` are for a run that asks for none, and
    `args` are the parameters of a run that gives none of their name.
    """

    id: str
    language: str
    file_name: str
    run: str
    build: str = "exit 0"
    memory_mb: int = 400
    processes: int = 30
    address_space: bool = True
    """Whether the memory limit is one of the address space, of which some virtual machines reserve
    far more than they use."""
    args: Mapping[str, Sequence[str]] = field(default_factory=dict)


def _interpreted(
    name: str, language: str, file_name: str, args: Sequence[str], **more: Any
) -> Language:
    return Language(
        name,
        f"{language}@jobe",
        file_name,
        run='exec "$0" {interpreterargs} {source} {runargs}',
        args={"interpreterargs": args},
        **more,
    )


def _compiled(name: str, file_name: str, args: Sequence[str], **more: Any) -> Language:
    return Language(
        name,
        f"{name}@jobe",
        file_name,
        run="exec ./{source}.exe {interpreterargs} {runargs}",
        args={"compileargs": args},
        **more,
    )


GCC: Final = '"$0" {compileargs} -o {source}.exe {source} {linkargs}'
FPC: Final = (
    '"$0" {compileargs} -Fe.streamer/errors -o{source}.exe {source} >.streamer/said'
    " || cat .streamer/errors >&2"
)

LANGUAGES: Final[Mapping[str, Language]] = {
    each.id: each
    for each in (
        _compiled("c", "prog.c", ("-Wall", "-Werror", "-std=c99", "-x c"), build=GCC),
        _compiled("cpp", "prog.cpp", ("-Wall", "-Werror"), build=GCC),
        Language(
            "java",
            "java@jobe",
            "prog.java",
            run='exec "$0" "$@" {interpreterargs} {class} {runargs}',
            build='"$0" "$@" -encoding UTF-8 {compileargs} {source}',
            memory_mb=768,
            processes=256,
            address_space=False,
            args={"interpreterargs": ("-Xrs", "-Xss8m", "-Xmx200m")},
        ),
        _interpreted(
            "nodejs",
            "javascript",
            "prog.js",
            ("--use_strict",),
            memory_mb=512,
            address_space=False,
        ),
        _interpreted(
            "octave",
            "octave",
            "prog.m",
            ("--norc", "--no-window-system", "--silent", "-H"),
            memory_mb=500,
        ),
        _compiled("pascal", "prog.pas", ("-vew", "-Se"), build=FPC),
        _interpreted(
            "php",
            "php",
            "prog.php",
            ("--no-php-ini",),
            build='"$0" -d display_errors=stderr -d log_errors=0 -l {source}',
        ),
        _interpreted(
            "python3",
            "python",
            "prog.py",
            ("-BE",),
            build='"$0" -m py_compile {source}',
            memory_mb=1000,
        ),
    )
}


def _runtime(
    title: str, tool: str, *compiler: str, version: Sequence[str], options: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a runtime as ``[runtimes.NAME]`` of config.toml has it."""
    return {
        "title": f"{title}, as Jobe runs it",
        "entry": "prog",
        "compile": ["sh", "-c", BY_SCRIPT.format(script=BUILD), *(compiler or (tool, *options))],
        "compile_input": "",
        "run": ["sh", "-c", BY_SCRIPT.format(script=RUN), tool, *options],
        "version": [*version],
        "warm": False,
    }


RUNTIMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "c@jobe": _runtime("C", "./{entry}.exe", "gcc", version=("gcc", "--version")),
    "cpp@jobe": _runtime("C++", "./{entry}.exe", "g++", version=("g++", "--version")),
    "java@jobe": _runtime(
        "Java", "java", "javac", *JAVAC, version=("java", "-version"), options=JAVA
    ),
    "javascript@jobe": _runtime("JavaScript", "node", version=("node", "--version")),
    "octave@jobe": _runtime(
        "Octave", "octave", version=("octave", "--version", "--norc", "--no-window-system")
    ),
    "pascal@jobe": _runtime("Pascal", "./{entry}.exe", "fpc", version=("fpc", "-iV")),
    "php@jobe": _runtime("PHP", "php", version=("php", "--version")),
    "python@jobe": _runtime("Python", "python3", version=("python3", "--version")),
}
"""What the configuration gets for these languages, besides what the operator has written there."""


def with_packages(folder: str) -> dict[str, Any]:
    """Return the runtime of Python with the packages of an environment in this folder."""
    python = f"{folder}/bin/python"
    return {
        **_runtime("Python", python, version=(python, "--version")),
        "env": {"VIRTUAL_ENV": folder, "PATH": f"{folder}/bin:{PATH}"},
        "read_only": [folder],
    }


def main_class(source: str) -> str | None:
    """Return the public class with ``main`` in a Java source, if there is just one.

    As Jobe does, it takes no notice of comments; unlike it, in time proportional to the source.
    """
    found: list[str] = []
    candidate: str | None = None
    for match in MAIN.finditer(source):
        if match[1] is not None:
            candidate = candidate or match[1]
        elif candidate is not None:
            found.append(candidate)
            candidate = None
    return found[0] if len(found) == 1 else None

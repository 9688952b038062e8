"""Find the tools of the languages on this host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamer.model.runtime import Runtime

__all__ = ["Tool", "find_tool", "missing_tools", "started", "tools_in"]

BUFFERED_BY: Final = "stdbuf"
"""It starts the program that comes after its options, such as those in OF_STDBUF and a value."""
OF_STDBUF: Final = ("-i", "-o", "-e", "--input", "--output", "--error")

EXECUTES: Final = 'exec "$0"'
"""A script of ``sh -c`` with this prepares for the tool that comes after it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """The tool of a runtime on this host: its `path`, or the `reason` why it is missing."""

    name: str
    path: str | None
    reason: str = ""


def find_tool(runtime: Runtime, path: str) -> Tool:
    """Look in `path` for the tools that compile and run programs of the language.

    `path` is the PATH of the jobs, not that of the service: jobs cannot use a version manager's
    shim in a user's home.
    """
    first = Tool(runtime.run[0], None)
    for name in (*tools_in(runtime.run), *tools_in(runtime.compile)):
        found = shutil.which(name, path=path)
        if found is None:
            where = "" if "/" in name else f" in {path}"
            return Tool(name, None, f"{name} is not installed: looked for `{name}`{where}")
        first = Tool(name, found)
    return first


def started(command: Sequence[str]) -> Sequence[str]:
    """Return a command without a script before it that executes it."""
    prepared = tuple(command[:2]) == ("sh", "-c") and any(EXECUTES in word for word in command[2:3])
    return command[3:] if prepared else command


def tools_in(command: Sequence[str]) -> Iterator[str]:
    """Yield the tools that a command starts; the program itself, such as ``./a.out``, is none."""
    words = iter(started(command))
    for word in words:
        if word.startswith(("./", "{")):
            return
        if word in OF_STDBUF:
            next(words, None)
        elif not word.startswith("-"):
            yield word
            if Path(word).name != BUFFERED_BY:
                return


def missing_tools(runtimes: Mapping[str, Runtime], path: str) -> dict[str, str]:
    """Return the runtimes that cannot be used on this host, with the reasons."""
    reasons = {
        name: missing_path(runtime) or find_tool(runtime, path).reason
        for name, runtime in runtimes.items()
    }
    return {name: reason for name, reason in reasons.items() if reason}


def missing_path(runtime: Runtime) -> str:
    """Return a message about a path of the runtime that does not exist, or ``""``."""
    for path in runtime.read_only:
        if not path.startswith("-") and not Path(path).exists():
            return f"runtimes.{runtime.name}.read_only: {path} does not exist on this host"
    return ""

"""Find the tools of the languages on this host."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer.model.runtime import Runtime

__all__ = ["Tool", "find_tool", "missing_tools"]


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

"""Look whether this host has what the languages need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer.model.runtime import Runtime

__all__ = ["Tool", "find_tool", "missing_path", "missing_tools"]


@dataclass(frozen=True, slots=True)
class Tool:
    """The program that a runtime starts with on this host: `path`, or the `reason` for none."""

    name: str
    path: str | None
    reason: str = ""


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


def missing_path(runtime: Runtime) -> str:
    """Return which path of the configuration is not there, with its key, or nothing."""
    for path in runtime.read_only:
        if not Path(path).exists():
            return f"runtimes.{runtime.name}.read_only: {path} does not exist on this host"
    return ""

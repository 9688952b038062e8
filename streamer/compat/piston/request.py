"""What a client of Piston sends to run a program, checked as Piston does and in its words."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

import streamer
from streamer.compat.piston.runtimes import Runtime
from streamer.errors import InvalidRequest

__all__ = ["Execution", "Request", "execution", "main_name"]

CONSTRAINTS: Final = {
    "timeout": ("wall_time_s", 1000),
    "cpu_time": ("cpu_time_s", 1000),
    "memory_limit": ("memory_bytes", 1),
}
"""The limit that each sets, and how many of its units are one of the limit's."""

PUBLIC_CLASS: Final = re.compile(
    r"^\s*public\s+(?:(?:abstract|final|sealed|strictfp)\s+)*"
    r"(?:class|interface|enum|record)\s+([A-Za-z_$][\w$]*)",
    re.MULTILINE,
)


class Request(msgspec.Struct):
    """The body of ``POST /execute``, and the ``init`` of a WebSocket. Other fields are ignored."""

    type: Any = None
    language: Any = None
    version: Any = None
    files: Any = None
    stdin: Any = None
    args: Any = None
    compile_timeout: Any = None
    run_timeout: Any = None
    compile_cpu_time: Any = None
    run_cpu_time: Any = None
    compile_memory_limit: Any = None
    run_memory_limit: Any = None


@dataclass(frozen=True, slots=True)
class Execution:
    """A program to be run.

    `run` are the limits of the program, `both` those of the compiler and the program together,
    where they cannot be told apart.
    """

    runtime: Runtime
    files: tuple[streamer.SourceFile, ...]
    args: tuple[str, ...]
    stdin: bytes
    compile: dict[str, float]
    run: dict[str, float]

    @property
    def both(self) -> dict[str, float]:
        """Limits for a job whose compiler and program have the same: the higher of both."""
        return {name: max(self.compile.get(name, 0), value) for name, value in self.run.items()}


def execution(
    request: Request, runtime: Runtime | None, config: streamer.Config, *, any_version: bool
) -> Execution:
    """Check a request for a runtime that was found for it. Raises `InvalidRequest`."""
    if not request.language or not isinstance(request.language, str):
        raise InvalidRequest("language is required as a string")
    if not (request.version or any_version) or not isinstance(request.version, str | None):
        raise InvalidRequest("version is required as a string")
    if not isinstance(request.files, list):
        raise InvalidRequest("files is required as an array")
    for at, file in enumerate(request.files):
        if not isinstance(file, dict) or not isinstance(file.get("content"), str):
            raise InvalidRequest(f"files[{at}].content is required as a string")
    if runtime is None:
        raise InvalidRequest(f"{request.language}-{request.version} runtime is unknown")
    if not any(_is_code(file) for file in request.files):
        raise InvalidRequest("files must include at least one utf8 encoded file")
    compiling, running = (_limits(request, stage, config) for stage in ("compile", "run"))
    stdin = "" if request.stdin is None else request.stdin
    if not isinstance(stdin, str):
        raise InvalidRequest("stdin must be a string")
    args = [] if request.args is None else request.args
    if not isinstance(args, list) or not all(isinstance(one, str) for one in args):
        raise InvalidRequest("args must be an array of strings")
    return Execution(
        runtime=runtime,
        files=_files(request.files, runtime),
        args=tuple(args),
        stdin=_bytes(stdin if stdin.endswith("\n") else f"{stdin}\n", "stdin"),
        compile=compiling,
        run=running,
    )


def main_name(name: str | None, runtime: Runtime, content: str) -> str:
    """Return the name of the file that is run; compilers want theirs to end as they expect.

    That of Java must be named as the public class in it, which Piston does not ask for.
    """
    entry = PurePosixPath(runtime.entry)
    if entry.suffix == ".java" and (public := PUBLIC_CLASS.search(content)):
        return str(PurePosixPath(name or entry).with_name(f"{public[1]}.java"))
    if not name:
        return runtime.entry
    ending = PurePosixPath(name).suffix
    fits = ending == entry.suffix if runtime.compiled else bool(ending)
    return name if fits else f"{name}{entry.suffix}"


def _is_code(file: dict[str, Any]) -> bool:
    # As Piston: an encoding that it does not know means text.
    return file.get("encoding") not in ("base64", "hex")


def _files(given: list[dict[str, Any]], runtime: Runtime) -> tuple[streamer.SourceFile, ...]:
    """Return the files, the one that is run first."""
    first = next(at for at, file in enumerate(given) if _is_code(file))
    files = []
    for at, file in enumerate(given):
        name = file.get("name")
        if name is not None and not isinstance(name, str):
            raise InvalidRequest(f"files[{at}].name must be a string")
        if at == first:
            name = main_name(name, runtime, file["content"])
        files.append(streamer.SourceFile(name or f"file{at}.code", _content(file, at)))
    return (files.pop(first), *files)


def _content(file: dict[str, Any], at: int) -> bytes:
    text: str = file["content"]
    where = f"files[{at}].content"
    try:
        match file.get("encoding"):
            case "base64":
                return base64.b64decode(text)
            case "hex":
                return bytes.fromhex(text)
            case _:
                return _bytes(text, where)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{where} is not valid {file.get('encoding')}") from None


def _bytes(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where} is not valid Unicode") from None


def _limits(request: Request, stage: str, config: streamer.Config) -> dict[str, float]:
    """Return the limits that a request sets for a stage; our maximum is the configured limit."""
    limits: dict[str, float] = {}
    for constraint, (name, units) in CONSTRAINTS.items():
        field = f"{stage}_{constraint}"
        value = getattr(request, field)
        if not value or (constraint == "memory_limit" and value == -1):
            continue  # -1 is what clients send for "as configured"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidRequest(f"If specified, {field} must be a number")
        most = int(getattr(config.limits.max, name) * units)
        if value > most:
            raise InvalidRequest(f"{field} cannot exceed the configured limit of {most}")
        if value < 0:
            raise InvalidRequest(f"{field} must be non-negative")
        limits[name] = int(value) if units == 1 else value / units
    return limits

"""Translate a run of Jobe into a job, and how the job ended into Jobe's answer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Final

from streamer import JobSpec, Limits, SourceFile
from streamer.compat.jobe.languages import BUILD, LANGUAGES, RUN, Language, main_class
from streamer.compat.outcome import Outcome
from streamer.events import Complete, Error

__all__ = ["OVERLOAD", "Refused", "result", "spec_of"]

COMPILATION_ERROR: Final = 11
RUNTIME_ERROR: Final = 12
TIME_LIMIT: Final = 13
SUCCESS: Final = 15
MEMORY_LIMIT: Final = 17
INTERNAL_ERROR: Final = 20
SERVER_OVERLOAD: Final = 21

OVERLOAD: Final = {
    "run_id": "0",
    "outcome": SERVER_OVERLOAD,
    "cmpinfo": "",
    "stdout": "",
    "stderr": "",
}
OVERLOAD_TEST: Final = "!** TESTING OVERLOAD EXCEPTION **!"
"""With this source Jobe's own test programs ask how an overloaded server answers."""

MOST_CPU_S: Final = 120
"""Jobe's ``cputime_upper_limit_secs``."""
KB: Final = 1024
MB: Final = 1000 * KB
HEADROOM_BYTES: Final = 64 * 1024 * KB
"""What a program has above the limit of its address space, so that this is what it notices."""
STACK_BYTES: Final = 64 * 1024 * KB
LEAST_MEMORY_MB: Final = 8
LEAST_FILE_ID: Final = 8
"""Jobe's ``MIN_FILE_IDENTIFIER_SIZE``."""

UNSAFE_NAME: Final = re.compile(r"[<>:\"/\\|?*\x00-\x1f\x7f\xa0\xad#\[\]@!$&'()+,;={}^~`]")
"""What the name of a source may not have."""
FILE_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
FILE_ID: Final = re.compile(rf"[A-Za-z0-9]{{{LEAST_FILE_ID},128}}")

FindFile = Callable[[str], bytes | None]
"""Return the contents of a file that was put before."""

AS_COMPILER: Final = """\
{{ {command}
}} >.streamer/out 2>.streamer/err
status=$?
[ -s .streamer/err ] || exit $status
cat .streamer/out .streamer/err >&2
exit 1
"""
"""Whatever a compiler says to standard error is a compilation error, warnings too."""


class Refused(Exception):
    """A run that Jobe would refuse: with this message, as a JSON string, and HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def spec_of(
    document: object,
    find_file: FindFile,
    most: Limits,
    available: Container[str] = LANGUAGES,
) -> JobSpec | None:
    """Return the job of a ``POST /runs``; None if it asks how an overloaded server answers.

    `most` is ``limits.max`` of the service, `available` the languages that are there, by Jobe's
    names. Raises `Refused`.
    """
    run = _run_spec(document)
    language = LANGUAGES.get(run["language_id"].lower())
    if language is None or language.id not in available:
        raise Refused(f"Language {_shown(run['language_id'].lower())} is not known")
    parameters = run.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise Refused("The parameters of the run_spec are not an object")
    limits, address_space = _limits(language, parameters, most)
    source: str = run["sourcecode"]
    name = _source_name(run, language, source)
    files = _files(run.get("file_list") or [], find_file)
    if source == OVERLOAD_TEST:
        return None
    words = _words(language, parameters, name)
    build = AS_COMPILER.format(command=language.build.format_map(words))
    program = language.run.format_map(words)
    if address_space:
        program = f"ulimit -v {address_space // KB}\n{program}"
    given = {name: _bytes(source), **files, BUILD: _bytes(build), RUN: _bytes(f"{program}\n")}
    stdin = run.get("input") or ""
    if not isinstance(stdin, str):
        raise Refused("The input of the run_spec is not a string")
    return JobSpec(
        language=language.language,
        files=tuple(SourceFile(each, content) for each, content in given.items()),
        entry=name,
        stdin=_bytes(stdin),
        limits=limits,
        output_encoding="base64",
    )


def result(run_id: str, language_id: str, ran: Outcome) -> dict[str, Any]:
    """Return the answer to a run, by how its job ended."""
    if isinstance(ran.end, Error):
        return _answer(run_id, *_failed(ran.end))
    if ran.end.phase == "compile":
        return _answer(run_id, COMPILATION_ERROR, cmpinfo=_compiler_said(ran.end, ran))
    verdict, stderr = _judged(ran.end, bytes(ran.run.stderr))
    if language_id.lower() == "java":
        stderr = stderr.replace(b"\n\t", b"\n        ")
    return _answer(run_id, verdict, stdout=bytes(ran.run.stdout), stderr=stderr)


def _run_spec(document: object) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise Refused("Non-JSON post data received")
    run = document.get("run_spec")
    if not isinstance(run, Mapping):
        raise Refused("No run_spec attribute found in post data")
    for name in ("sourcecode", "language_id"):
        if run.get(name) is None:
            raise Refused(f"run_spec is missing the required attribute '{name}'")
        if not isinstance(run[name], str):
            raise Refused(f"The {name} of the run_spec is not a string")
    return run


def _limits(
    language: Language, parameters: Mapping[str, Any], most: Limits
) -> tuple[dict[str, float | str], int]:
    """Return the limits of the program, and that of its address space in bytes, 0 for none."""
    cpu_s = _number(parameters, "cputime", 5)
    most_cpu_s = min(MOST_CPU_S, int(most.cpu_time_s))
    if int(cpu_s) > most_cpu_s:
        raise Refused(f"cputime exceeds maximum allowed on this Jobe server ({most_cpu_s} secs)")
    cpu_s = max(cpu_s, 1.0)
    memory = int(_number(parameters, "memorylimit", language.memory_mb) * MB)
    if language.id == "java":  # as Jobe: the virtual machine is told its limit in -Xmx
        memory = language.memory_mb * MB
    address_space = max(memory, LEAST_MEMORY_MB * MB) if memory and language.address_space else 0
    held = max(memory, LEAST_MEMORY_MB * MB) + HEADROOM_BYTES if memory else most.memory_bytes
    processes = max(int(_number(parameters, "numprocs", language.processes)), 1) + 1
    if language.id == "java":
        processes = max(processes, language.processes)
    disk = _number(parameters, "disklimit", 20)
    file_bytes = most.file_bytes if disk < 0 else max(int(disk * MB), 1)
    output_bytes = max(int(_number(parameters, "streamsize", 2) * MB), 1)
    limits: dict[str, float | str] = {
        "cpu_time_s": cpu_s,
        "wall_time_s": min(2 * cpu_s, most.wall_time_s),
        "memory_bytes": min(held, most.memory_bytes),
        "stack_bytes": min(STACK_BYTES, most.stack_bytes),
        "processes": min(processes, most.processes),
        "file_bytes": min(file_bytes, most.file_bytes),
        "output_bytes": min(output_bytes, most.output_bytes),
    }
    return limits, address_space


def _number(parameters: Mapping[str, Any], name: str, default: float) -> float:
    """Return a parameter, or the default for what is not a number, as Jobe does."""
    try:
        value = float(parameters.get(name, default))
    except (TypeError, ValueError, OverflowError):
        return default
    return value if abs(value) < MOST_NUMBER else default


MOST_NUMBER: Final = 1e6
"""Of seconds, MB and processes; neither infinity nor NaN is below it."""


def _source_name(run: Mapping[str, Any], language: Language, source: str) -> str:
    name = run.get("sourcefilename")
    if name is not None:
        if not isinstance(name, str) or UNSAFE_NAME.search(name) or name[:1] in (".", "-"):
            raise Refused("The sourcefilename for the run_spec is illegal")
        if name and not (language.id == "java" and name == language.file_name):
            return name
    if language.id == "java" and (found := main_class(source)) is not None:
        return f"{found}.java"
    return language.file_name


def _files(listed: object, find_file: FindFile) -> dict[str, bytes]:
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise Refused("The file_list of the run_spec is not a list")
    files: dict[str, bytes] = {}
    for entry in listed:
        match entry:
            case [str(file_id), str(name), *rest] if len(rest) <= 1:
                if not FILE_ID.fullmatch(file_id) or not FILE_NAME.fullmatch(name):
                    raise Refused(f"Invalid file specifier: {_shown(f'{file_id}, {name}')}")
            case _:
                raise Refused(f"Invalid file specifier: {_shown(str(entry))}")
        content = find_file(file_id)
        if content is None:
            raise Refused("One or more of the specified files is missing/unavailable", 404)
        files[name] = content
    return files


def _words(language: Language, parameters: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what stands for the placeholders of the commands; the shell reads all of it."""
    words = {"source": shlex.quote(name), "class": shlex.quote(name.split(".", 1)[0])}
    if language.id == "java" and isinstance(chosen := parameters.get("main_class"), str):
        words["class"] = chosen
    for kind in ("compileargs", "linkargs", "interpreterargs", "runargs"):
        given = parameters.get(kind)
        if given is None:
            given = language.args.get(kind, ())
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise Refused(f"The parameter {kind} is not a list")
        if not all(isinstance(word, str | int | float) for word in given):
            raise Refused(f"The parameter {kind} is not a list of strings")
        words[kind] = " ".join(map(str, given))
    return words


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _shown(text: str) -> str:
    return f"'{text[:100]}'"


def _failed(error: Error) -> tuple[int, bytes, bytes, bytes]:
    if error.code == "shutting_down":
        return SERVER_OVERLOAD, b"", b"", b""
    return INTERNAL_ERROR, b"", b"", error.message.encode()


def _compiler_said(end: Complete, ran: Outcome) -> bytes:
    said = bytes(ran.compile.stdout + ran.compile.stderr)
    if end.reason == "exited":
        return said or b"The compiler failed without a message\n"
    why = "a signal" if end.reason == "signaled" else f"its limit: {end.reason}"
    return said + f"The compilation was ended by {why}\n".encode()


def _judged(end: Complete, stderr: bytes) -> tuple[int, bytes]:
    """Return the outcome of a program that was started, and its standard error as Jobe has it."""
    match end.reason:
        case "wall_time" | "cpu_time" | "output_limit":
            # Jobe cuts the output, and then lets the program run into its time limit.
            outcome, stderr = TIME_LIMIT, b""
        case "memory":
            outcome = MEMORY_LIMIT
        case "cancelled":
            outcome, stderr = INTERNAL_ERROR, stderr + b"the run was cancelled\n"
        case "disk":
            outcome, stderr = RUNTIME_ERROR, stderr + b"warning: the disk limit was reached\n"
        case "signaled" if end.signal == "SIGSEGV":
            outcome, stderr = RUNTIME_ERROR, b""
        case "signaled":
            said = f"warning: command terminated with {end.signal}\n"
            outcome, stderr = RUNTIME_ERROR, stderr + said.encode()
        case _:
            outcome = RUNTIME_ERROR if stderr else SUCCESS
    return outcome, stderr


def _answer(
    run_id: str, outcome: int, cmpinfo: bytes = b"", stdout: bytes = b"", stderr: bytes = b""
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "outcome": outcome,
        "cmpinfo": _clean(cmpinfo),
        "stdout": _clean(stdout),
        "stderr": _clean(stderr),
    }


def _clean(output: bytes) -> str:
    """Return output as text; of what is not UTF-8, all but printable ASCII is escaped."""
    try:
        return output.decode()
    except UnicodeDecodeError:
        return UNPRINTABLE.sub(lambda found: b"\\x%02x" % found[0][0], output).decode("ascii")


UNPRINTABLE: Final = re.compile(rb"[^\x20-\x7e\n\r\t]")

"""Turn the files, arguments and limits of a command line into a job."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Final

from streamer.cli.languages import language_in, language_of, language_of_text
from streamer.cli.stdio import read_all
from streamer.errors import InvalidJob
from streamer.model.job import Case, JobSpec, Limits, SourceFile
from streamer.model.names import camel
from streamer.model.runtime import Runtime
from streamer.model.sizes import parse_size

__all__ = ["job_spec", "parsed_limits"]

BY_CAMEL: Final = {camel(limit.name): limit.name for limit in fields(Limits)}
WHOLE: Final = re.compile("[+-]?[0-9]{1,20}(_[0-9]{1,20})*")


def job_spec(
    program: str | None,
    *,
    project: str | None = None,
    runtimes: Mapping[str, Runtime],
    language: str | None = None,
    args: Sequence[str] = (),
    files: Sequence[str] = (),
    limits: Sequence[str] = (),
    env: Sequence[str] = (),
    cases: str | None = None,
    stop_on_failure: bool = False,
    retry: int = 0,
    environment: str | None = None,
    artifacts: Sequence[str] = (),
    priority: int = 0,
) -> JobSpec:
    """Return the job that runs the file `program`, or standard input for ``-``.

    The language is that of the file's name or first line, if none is given. With a `project`, a
    folder or an archive, the file is one of it; None means the entry of the language.
    `files` are put beside it under their relative paths, or under their names if they lie outside
    of the current folder. `limits` and `env` are ``NAME=VALUE``. `cases` is a file with cases as
    HTTP takes them, `artifacts` patterns of files that are kept. Raises `InvalidJob`.
    """
    code = None
    if program is None or (project is not None and program != "-"):
        entry = program
        sources: list[SourceFile] = []
        if language is None:
            language = _language_in(program, project or "", runtimes)
    elif program == "-":
        entry = None
        sources = []
        code, language = _from_input(language, runtimes)
    else:
        main = _program(program, runtimes)
        entry = main.name
        sources = [main]
        if language is None:
            language = language_of(main.name, runtimes, main.content)
    sources += [_read(name) for name in files]
    return JobSpec(
        language=language,
        code=code,
        files=tuple(sources),
        entry=entry,
        args=tuple(args),
        env=dict(_pair(text, "--env") for text in env),
        limits=parsed_limits(limits),
        environment=environment,
        artifacts=tuple(artifacts),
        output_encoding="base64",  # the program's exact bytes
        cases=() if cases is None else _cases(cases),
        stop_on_failure=stop_on_failure,
        priority=priority,
        retry=retry,
    )


def _language_in(program: str | None, project: str, runtimes: Mapping[str, Runtime]) -> str:
    """Return the language of a program in a folder or an archive. Raises `InvalidJob`."""
    if program is not None:
        return language_of(program, runtimes)
    if os.path.isdir(project):  # noqa: PTH112 - Path.is_dir may raise
        return language_in(project, runtimes)
    raise InvalidJob("without a FILE an archive needs --language")


def _from_input(language: str | None, runtimes: Mapping[str, Runtime]) -> tuple[str, str]:
    """Return the program on standard input, and its language. Raises `InvalidJob`."""
    try:
        text = read_all()
        code = text.decode()
    except UnicodeDecodeError:
        raise InvalidJob("standard input is not UTF-8 text") from None
    except OSError as error:
        raise InvalidJob(f"standard input: {error.strerror}") from None
    if language is None:
        language = language_of_text(text, runtimes)
    if language is None:
        raise InvalidJob(
            "a program from standard input needs --language, or a first line such as "
            "#!/usr/bin/env python3"
        )
    return code, language


def _cases(name: str) -> tuple[Case, ...]:
    from streamer.web.wire import parse_cases

    try:
        cases = parse_cases(Path(name).read_bytes())
    except OSError as error:
        raise InvalidJob(f"{name}: {error.strerror}") from error
    except InvalidJob as error:
        raise InvalidJob(f"{name}: {error}") from None
    if not cases:
        raise InvalidJob(f"{name}: there are no cases")
    return cases


def parsed_limits(limits: Sequence[str]) -> dict[str, float | str]:
    """Return the limits that are given as ``NAME=VALUE``. Raises `InvalidJob`."""
    return dict(_limit(text) for text in limits)


def _program(name: str, runtimes: Mapping[str, Runtime]) -> SourceFile:
    try:
        return _read(name)
    except InvalidJob as error:
        hint = ""
        if name in runtimes:
            hint = "; it is a language: name the file of a program"
        raise InvalidJob(f"{error}{hint}") from error


def _read(name: str) -> SourceFile:
    path = Path(name)
    try:
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode) & 0o755
    except OSError as error:
        raise InvalidJob(f"{name}: {error.strerror}") from error
    relative = PurePosixPath(os.path.normpath(name))
    inside = not relative.is_absolute() and ".." not in relative.parts
    return SourceFile(str(relative) if inside else relative.name, content, mode)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InvalidJob(f"{option} {text}: write NAME=VALUE")
    return name, value


def _limit(text: str) -> tuple[str, float]:
    name, value = _pair(text, "--limit")
    name = BY_CAMEL.get(name, name)  # both spellings, as `streamer.Client`
    try:
        if name.endswith("_bytes"):
            return name, parse_size(value)
        return name, int(value) if WHOLE.fullmatch(value) else float(value)
    except ValueError as error:
        wrong = error if name.endswith("_bytes") else f"{value!r} is not a number"
        raise InvalidJob(f"--limit {name}: {wrong}") from None

"""Find out in which language a program is, where the command line does not say it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from streamer.errors import InvalidJob
from streamer.model.runtime import Runtime

__all__ = ["language_in", "language_of", "language_of_text"]

FIRST_LINE: Final = re.compile(rb"#![ \t]*(\S+)(?:[ \t]+(-\S+[ \t]+)?(\S+))?")
MOST_BYTES: Final = 256
"""As the kernel, which reads no more of the first line (execve(2))."""


def language_of(name: str, runtimes: Mapping[str, Runtime], content: bytes = b"") -> str:
    """Return the language of a file by its name, else by its first line. Raises `InvalidJob`."""
    suffix = PurePosixPath(name).suffix
    for runtime in runtimes.values():
        patterns = [f"*{PurePosixPath(runtime.entry).suffix}", *runtime.sources]
        if suffix and any(fnmatchcase(name, pattern) for pattern in patterns):
            return runtime.name
    if (found := language_of_text(content, runtimes)) is not None:
        return found
    raise InvalidJob(f"{name}: the language is not clear from the file's name; use --language")


def language_of_text(content: bytes, runtimes: Mapping[str, Runtime]) -> str | None:
    """Return the language that the first line names, as in ``#!/usr/bin/env python3``."""
    line = FIRST_LINE.match(content[:MOST_BYTES])
    if line is None:
        return None
    interpreter = PurePosixPath(os.fsdecode(line[1])).name
    if interpreter == "env" and line[3] is not None:
        interpreter = PurePosixPath(os.fsdecode(line[3])).name
    runtime = runtimes.get(interpreter)
    return None if runtime is None else runtime.name


def language_in(folder: str, runtimes: Mapping[str, Runtime]) -> str:
    """Return the language whose entry is in a folder. Raises `InvalidJob` for none or several."""
    entries = {runtime.entry: runtime.name for runtime in runtimes.values()}
    found = [name for name in entries if os.path.isfile(os.path.join(folder, name))]  # noqa: PTH113, PTH118 - Path.is_file may raise
    if len(found) == 1:
        return entries[found[0]]
    what = f"{' and '.join(sorted(found))} are there" if found else "it has no main.py or the like"
    raise InvalidJob(
        f"{folder}: which program of this folder? {what}; "
        f"name the file: streamer run --project {folder} FILE"
    )

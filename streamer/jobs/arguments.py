"""Check the texts that go with a program: its arguments and variables, and the job's metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from streamer.errors import InvalidJob, cut, quoted

__all__ = ["check_arguments", "check_metadata"]

MAX_ARGUMENT_BYTES: Final = 128 * 1024 - 1
"""MAX_ARG_STRLEN of the kernel (execve(2))."""
MAX_ARGUMENTS_BYTES: Final = 1024 * 1024
"""All arguments and variables; a quarter of the stack limit (execve(2)) is 2 MiB."""
MAX_ARGUMENTS: Final = 4096
MAX_VARIABLES: Final = 1024
"""Each argument needs a pointer and an object besides its bytes, here and in the kernel."""
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_METADATA_ENTRIES: Final = 64
PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""Names that appear verbatim in a path of the request; others are quoted."""


def check_arguments(
    args: Sequence[str],
    env: Mapping[str, str],
    path: str,
    command: Sequence[str] = (),
    *,
    besides: int = 0,
) -> int:
    """Check what a program is given, and return its bytes.

    `path` is where the job or case is in the request; `besides` are bytes that it is given, too.
    Raises `InvalidJob`.
    """
    total = besides
    groups = (("args", args), ("command", command))
    for group, words in groups:
        _check_count(len(words), MAX_ARGUMENTS, "arguments", f"{path}.{group}")
        for index, word in enumerate(words):
            total += _check_word(word, f"{path}.{group}[{index}]")
    _check_count(len(env), MAX_VARIABLES, "variables", f"{path}.env")
    for name, value in env.items():
        plain = PLAIN_NAME.fullmatch(cut(name))
        place = f"{path}.env.{name}" if plain else f"{path}.env[{quoted(name)}]"
        if not name or "=" in name:
            raise InvalidJob("the name of a variable must not be empty or contain =", path=place)
        # Any other name is valid (environ(7)), though not every shell can use it.
        total += _check_word(name, place) + _check_word(value, place)
    if total > MAX_ARGUMENTS_BYTES:
        raise InvalidJob(
            f"arguments and variables are {total} bytes: {MAX_ARGUMENTS_BYTES} at most",
            path=f"{path}.args",
        )
    return total


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Check the texts that are returned with a job. Raises `InvalidJob`."""
    _check_count(len(metadata), MAX_METADATA_ENTRIES, "entries", "$.metadata")
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path="$.metadata") from None
    if size > MAX_METADATA_BYTES:
        raise InvalidJob(
            f"metadata is {size} bytes: {MAX_METADATA_BYTES} at most", path="$.metadata"
        )


def _check_count(count: int, most: int, what: str, path: str) -> None:
    if count > most:
        raise InvalidJob(f"{count} {what} are too many: {most} at most", path=path)


def _check_word(word: str, path: str) -> int:
    try:
        size = len(word.encode())
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path=path) from None
    if "\0" in word:
        raise InvalidJob("the text must not contain NUL", path=path)
    if size > MAX_ARGUMENT_BYTES:
        raise InvalidJob(f"{size} bytes are too many: {MAX_ARGUMENT_BYTES} at most", path=path)
    return size + 1

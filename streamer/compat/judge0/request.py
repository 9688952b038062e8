"""What a client of Judge0 submits, checked as Judge0 does and in its words."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

import streamer
from streamer.compat.judge0.languages import Listed
from streamer.compat.judge0.texts import decoded, digest
from streamer.errors import InvalidRequest

__all__ = ["INPUTS", "LIMITS", "MOST_RUNS", "Invalid", "Kept", "Submission", "submission"]

MOST_RUNS: Final = 20
MOST_CHARS: Final = 512
KEPT_BYTES: Final = 12 * 1024
"""How much of a submission's own texts is kept with it, together, to be given back."""
INPUTS: Final = ("source_code", "stdin", "expected_output")
UNSAFE: Final = str.maketrans("", "", "$&;<>|`")
"""What Judge0 removes from arguments."""

LIMITS: Final[Mapping[str, tuple[str, int, float]]] = {
    "cpu_time_limit": ("cpu_time_s", 1, 0.1),
    "wall_time_limit": ("wall_time_s", 1, 1),
    "memory_limit": ("memory_bytes", 1024, 4096),
    "stack_limit": ("stack_bytes", 1024, 64),
    "max_processes_and_or_threads": ("processes", 1, 1),
    "max_file_size": ("file_bytes", 1024, 1),
}
"""Our limit for each of Judge0's, how many of our units are one of its, and the least."""

NOT_HERE: Final = {
    "compiler_options": "setting compiler options is not allowed",
    "callback_url": "setting callback is not allowed",
    "additional_files": "setting additional files is not allowed",
    "enable_per_process_and_thread_time_limit": "this option cannot be enabled",
    "enable_per_process_and_thread_memory_limit": "this option cannot be enabled",
}


class Invalid(Exception):
    """A submission cannot be accepted: what is wrong with each of its fields."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__("the submission is invalid")
        self.errors = errors


class Kept(msgspec.Struct, omit_defaults=True):
    """What is kept of a submission, in its job's metadata: all that its answers need.

    `given` has what was asked for; its long texts are left out. `expected` is the digest of the
    output that is the right one.
    """

    language_id: int
    redirect: bool = False
    expected: str | None = None
    given: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission that was accepted.

    `compiled` programs run as cases of their job, so that their figures are without the compiler's.
    """

    kept: Kept
    language: Listed
    source: bytes
    stdin: bytes
    args: tuple[str, ...]
    limits: dict[str, float]
    network: bool
    runs: int


def submission(
    asked: Mapping[str, Any],
    known: Mapping[int, Listed],
    config: streamer.Config,
    *,
    in_base64: bool,
) -> Submission:
    """Check a submission. Raises `Invalid`, and `InvalidRequest` for invalid base64."""
    errors: dict[str, list[str]] = {}
    texts = {name: _text(asked.get(name), name, errors, in_base64=in_base64) for name in INPUTS}
    source, stdin, expected = (texts[name] for name in INPUTS)
    if not (source or b"").strip():
        errors.setdefault("source_code", []).append("can't be blank")
    language = _language(asked.get("language_id"), known, errors)
    for name, said in NOT_HERE.items():
        if asked.get(name) not in (None, "", False, "false"):
            errors.setdefault(name, []).append(said)
    limits, numbers = _limits(asked, config, errors)
    runs = _number(asked, "number_of_runs", 1, MOST_RUNS, errors)
    network = bool(asked.get("enable_network"))
    if network and config.sandbox.network == "none":
        errors.setdefault("enable_network", []).append("enabling network is not allowed")
    args = _arguments(asked.get("command_line_arguments"), errors)
    if errors or language is None or source is None:
        raise Invalid(errors)
    kept = Kept(
        language_id=language.id,
        redirect=bool(asked.get("redirect_stderr_to_stdout")),
        expected=None if expected is None else digest(expected),
        given={
            **numbers,
            "number_of_runs": int(runs or 1),
            "command_line_arguments": asked.get("command_line_arguments"),
            "enable_network": network,
            **_short(texts),
        },
    )
    return Submission(kept, language, source, stdin or b"", args, limits, network, int(runs or 1))


def _text(
    value: object, name: str, errors: dict[str, list[str]], *, in_base64: bool
) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        errors.setdefault(name, []).append("is not a text")
        return None
    if in_base64:
        return decoded(value, name)
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} is not valid Unicode") from None


def _language(
    value: object, known: Mapping[int, Listed], errors: dict[str, list[str]]
) -> Listed | None:
    said = errors.setdefault("language_id", [])
    if value in (None, ""):
        said.append("can't be blank")
    shown = "" if value is None else str(value)[:20]
    number = int(shown) if shown.isascii() and shown.isdecimal() else -1
    found = known.get(number)
    if found is None:
        said.append(f"language with id {shown} doesn't exist")
    else:
        del errors["language_id"]
    return found


def _limits(
    asked: Mapping[str, Any], config: streamer.Config, errors: dict[str, list[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return our limits, and what was given under the names of Judge0."""
    limits: dict[str, float] = {}
    numbers: dict[str, float] = {}
    for name, (ours, units, least) in LIMITS.items():
        most = getattr(config.limits.max, ours) / units
        value = _number(asked, name, least, most, errors)
        if value is not None:
            numbers[name] = value if ours.endswith("_s") else int(value)
            limits[ours] = value if ours.endswith("_s") else int(value * units)
    # It is not given on top: a program is ended where its time is over.
    extra = _number(asked, "cpu_extra_time", 0, config.limits.max.cpu_time_s, errors)
    return limits, numbers if extra is None else {**numbers, "cpu_extra_time": extra}


def _number(
    asked: Mapping[str, Any], name: str, least: float, most: float, errors: dict[str, list[str]]
) -> float | None:
    """Return a number that is given, perhaps as text."""
    value = asked.get(name)
    if value in (None, ""):
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        number = None
    said = None
    if number is None or isinstance(value, bool) or number != number:  # noqa: PLR0124 - NaN
        said = "is not a number"
    elif number < least:
        said = f"must be greater than or equal to {least:g}"
    elif number > most:
        said = f"must be less than or equal to {most:.15g}"
    if said is not None:
        errors.setdefault(name, []).append(said)
        return None
    return number


def _arguments(value: object, errors: dict[str, list[str]]) -> tuple[str, ...]:
    """Return the words of an argument line, as a shell divides it."""
    if value in (None, ""):
        return ()
    said = None
    if not isinstance(value, str):
        said = "is not a text"
    elif len(value) > MOST_CHARS:
        said = f"is too long (maximum is {MOST_CHARS} characters)"
    else:
        try:
            return tuple(shlex.split(value.translate(UNSAFE)))
        except ValueError:
            said = "has a quotation mark that is not closed"
    errors.setdefault("command_line_arguments", []).append(said)
    return ()


def _short(texts: Mapping[str, bytes | None]) -> dict[str, str]:
    """Return the texts that there is room for, in base64; the shortest first."""
    given = {}
    room = KEPT_BYTES
    for name, text in sorted(texts.items(), key=lambda one: len(one[1] or b"")):
        if text is None or len(text) > room:
            continue
        kept = base64.b64encode(text).decode()
        if len(kept) <= room:
            room -= len(kept)
            given[name] = kept
    return given

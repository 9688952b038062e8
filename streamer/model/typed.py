"""Check the types of what a host's Python code passes in; nothing checks them again later.

For HTTP requests `streamer.web.wire` does it; a host's code may not be type-checked.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

import msgspec

from streamer.errors import InvalidJob, quoted
from streamer.model.job import Case, JobSpec, Limits, SourceFile, TerminalSize
from streamer.model.names import camel
from streamer.model.signals import signal_number
from streamer.model.webhook import Webhook

__all__ = ["as_bytes", "as_signal", "typed_spec"]

WORDS: Final = {
    "array": "a list or tuple",
    "bool": "True or False",
    "float": "a number",
    "int": "an int",
    "null": "None",
    "object": "a mapping",
    "str": "a str",
}
"""The types in msgspec's messages, in a Python programmer's words."""

AT: Final = " - at `"
NAMES: Final = tuple(field.name for field in fields(JobSpec))


def typed_spec(spec: object) -> JobSpec:
    """Return a job whose fields have the types that `JobSpec` declares.

    Lists become tuples, and text becomes bytes in UTF-8. Raises `InvalidJob` with the path.
    """
    if not isinstance(spec, JobSpec):
        raise InvalidJob(f"expected a streamer.JobSpec, got {_type(spec)}", path="$")
    values: dict[str, Any] = {name: getattr(spec, name) for name in NAMES}
    # Whether a value is a number or a size is decided in `jobs.resolve`, which knows the limits.
    limits = _limits(values.pop("limits"), "$.limits")
    if isinstance(spec.stdin, str):
        values["stdin"] = _encoded(spec.stdin, "$.stdin")
    if isinstance(spec.files, list | tuple):
        values["files"] = [_file(file, f"$.files[{n}]") for n, file in enumerate(spec.files)]
    if isinstance(spec.terminal, TerminalSize):
        values["terminal"] = {"cols": spec.terminal.cols, "rows": spec.terminal.rows}
    if isinstance(spec.webhook, Webhook):
        values["webhook"] = {"url": spec.webhook.url, "events": spec.webhook.events}
    case_limits: list[Mapping[str, Any]] = []
    if isinstance(spec.cases, list | tuple):
        values["cases"] = [
            _case(case, f"$.cases[{n}]", case_limits) for n, case in enumerate(spec.cases)
        ]
    try:
        typed = msgspec.convert(values, JobSpec, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    cases = zip(typed.cases, case_limits, strict=True)
    return replace(
        typed, limits=limits, cases=tuple(replace(case, limits=own) for case, own in cases)
    )


def as_bytes(data: object) -> bytes:
    """Return bytes for a program's standard input; text becomes UTF-8. Raises TypeError."""
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"expected bytes or str, got {_type(data)}")


def as_signal(name: object) -> int:
    """Return the number of a signal, given by number or name. Raises TypeError, ValueError."""
    if isinstance(name, str):
        number = signal_number(name)
        if number is None or number not in signal.valid_signals():
            raise ValueError(f"unknown signal {quoted(name)}; write it like SIGINT")
        return number
    if isinstance(name, bool) or not isinstance(name, int):
        raise TypeError(f"expected a signal's number or name, got {_type(name)}")
    if name not in signal.valid_signals():
        raise ValueError(f"unknown signal {name}")
    return int(name)


def _limits(limits: object, path: str) -> Mapping[str, Any]:
    if isinstance(limits, Limits):
        # A Limits has a value for every limit, which would override all of the configuration.
        raise InvalidJob(
            "expected a mapping of the limits that differ from the configuration, such as "
            '{"wall_time_s": 5}, got a Limits',
            path=path,
        )
    if not isinstance(limits, Mapping) or not all(isinstance(name, str) for name in limits):
        raise InvalidJob(
            f'expected a mapping such as {{"wall_time_s": 5}}, got {_type(limits)}',
            path=path,
        )
    return dict(limits)


def _case(case: object, path: str, limits: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields of a case but its limits, which are added to `limits`."""
    if not isinstance(case, Case):
        raise InvalidJob(f"expected a streamer.Case, got {_type(case)}", path=path)
    stdin: object = case.stdin
    if isinstance(stdin, str):
        stdin = _encoded(stdin, f"{path}.stdin")
    limits.append(_limits(case.limits, f"{path}.limits"))
    return {"stdin": stdin, "args": case.args, "env": case.env, "name": case.name}


def _file(file: object, path: str) -> dict[str, Any]:
    if not isinstance(file, SourceFile):
        raise InvalidJob(f"expected a streamer.SourceFile, got {_type(file)}", path=path)
    content: object = file.content
    if isinstance(content, str):
        content = _encoded(content, f"{path}.content")
    mode: object = file.mode
    if isinstance(mode, int) and not 0 <= mode <= 0o777:
        raise InvalidJob("the mode must be from 0 to 0o777", path=f"{path}.mode")
    return {"name": file.name, "content": content, "mode": file.mode}


def _encoded(text: str, path: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidJob("the text is not valid Unicode", path=path) from None


def _refusal(message: str) -> InvalidJob:
    what, _, place = message.partition(AT)
    # msgspec writes "at `key` in `$.env`" if a key of a mapping is at fault.
    place = place.removeprefix("key` in `").removesuffix("`").replace("[...]", "")
    if what.startswith("Invalid enum value "):
        what = f"unknown value {what.removeprefix('Invalid enum value ')[:100]}"
    what = re.sub(r"`([\w |]+)`", lambda types: _words(types[1]), what)
    path = re.sub(r"\w+", lambda name: camel(name[0]), place)
    return InvalidJob(what[0].lower() + what[1:], path=path or "$")


def _words(types: str) -> str:
    return " or ".join(WORDS.get(name, name) for name in types.split(" | "))


def _type(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"

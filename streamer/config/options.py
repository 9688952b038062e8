"""Fill the options that a plugin has declared from its table of the configuration."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from streamer.config.tree import Written, explain, read_value
from streamer.errors import ConfigError

__all__ = ["configured", "did_you_mean"]

T = TypeVar("T")


def configured(cls: type[T], options: Mapping[str, object], place: str) -> T:
    """Return a dataclass with these options as its fields; a class that is none takes none.

    `place` is the table in the configuration. Raises `ConfigError` for an option that is unknown
    or has the wrong type.
    """
    if not dataclasses.is_dataclass(cls):
        if options:
            raise ConfigError(f"{place}.{next(iter(options))}: it takes no options")
        return cls()
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    for key in options:
        if key not in names:
            raise ConfigError(
                f"{place}.{key}: unknown option{did_you_mean(key, names)}; "
                f"it has: {', '.join(names) or 'none'}"
            )
    written = any(isinstance(value, Written) for value in options.values())
    kinds: Mapping[str, Any] = get_type_hints(cls) if written else {}
    try:
        return msgspec.convert(
            {name: _typed(value, kinds.get(name)) for name, value in options.items()}, cls
        )
    except msgspec.ValidationError as error:
        key, wrong = explain(error, place)
        raise ConfigError(f"{key}: {wrong}") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the one that was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _typed(value: object, kind: object) -> object:
    """Read a value from the environment: a text option takes it as it is, others as TOML."""
    if not isinstance(value, Written):
        return value
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str in choices:
        return str(value)
    found, read = read_value(value)
    return read if found else str(value)

"""Check and merge trees of tables, from TOML or nested mappings."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from streamer.errors import ConfigError
from streamer.model.sizes import parse_size

__all__ = [
    "Key",
    "Tree",
    "Written",
    "check_keys",
    "explain",
    "is_size",
    "leaves",
    "merge",
    "read_value",
    "with_sizes",
]

Tree = dict[str, Any]
Key = tuple[str, ...]

WORDS: Final = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a table",
    "str": "a string",
}
"""The types in msgspec's messages, in the words of TOML."""


class Written(str):
    """The raw text of a variable or option whose key has an unknown type."""

    __slots__ = ()


def read_value(text: str) -> tuple[bool, Any]:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False, None
    # A newline in the text may have added more keys.
    return document.keys() == {"value"}, document.get("value")


def leaves(tree: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value with its key; lists and empty tables are values."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*at, name))
        else:
            yield (*at, name), value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return both trees merged; if both have a value, the one of `above` wins."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(under, value)
        else:
            merged[name] = value
    return merged


def check_keys(table: object, known: Iterable[str], place: str = "") -> Mapping[str, Any]:
    """Return `table`. Raises `ConfigError` if it is not a table or has an unknown key."""
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: expected a table of settings")
    names = sorted(known)
    for key in table:
        if key not in names:
            where = f"{place}." if place else ""
            close = difflib.get_close_matches(key.lower(), names, n=1)
            remedy = f"did you mean {where}{close[0]}?" if close else f"known: {', '.join(names)}"
            raise ConfigError(f"{where}{key}: unknown key; {remedy}")
    return table


def is_size(name: str) -> bool:
    """Tell whether a key holds a size: ``memory_bytes``, ``blob_bytes_per_client``."""
    return name.removesuffix("_per_client").endswith("_bytes")


def with_sizes(tree: Mapping[str, Any], at: Key = ()) -> Tree:
    """Return the tree with every size given as text replaced by its number of bytes.

    A variable or a file of a runtime or of an environment is none. Raises `ConfigError`.
    """
    read: Tree = {}
    for name, value in tree.items():
        key = (*at, name)
        of_runtime = name in ("env", "files") and "runtimes" in key[-3:-2]
        of_environment = name == "variables" and "environments" in key[-3:-2]
        if isinstance(value, Mapping) and not (of_runtime or of_environment):
            read[name] = with_sizes(value, key)
        elif isinstance(value, str) and is_size(name):
            try:
                read[name] = parse_size(value)
            except ValueError as error:
                raise ConfigError(f"{'.'.join(key)}: {error}") from None
        else:
            read[name] = value
    return read


def _in_words(types: re.Match[str]) -> str:
    """Return types of msgspec's in the words of TOML, each once."""
    words = [WORDS.get(word, word) for word in types[1].split(" | ")]
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return " or ".join(words)


def explain(error: msgspec.ValidationError, place: str = "") -> tuple[str, str]:
    """Return the key of an error of msgspec, and its message in the words of TOML.

    The value is left out: it may be a secret.
    """
    what, _, path = str(error).partition(" - at `$")
    what = re.sub(r"^Object (contains unknown|missing required) field", r"\1 key", what)
    what = re.sub(r"^Invalid enum value .*", "unknown value", what)
    what = re.sub(r"`(\w+(?: \| \w+)*)`", _in_words, what)
    if what.endswith("a list, got a string"):
        what += '; write it like ["a", "b"]'
    key = f"{place}{path.removesuffix('`').replace('[...]', '')}".removeprefix(".")
    return key, what[0].lower() + what[1:]

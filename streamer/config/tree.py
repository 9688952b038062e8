"""Check and merge trees of tables, as TOML and nested mappings give them."""

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
"""What the reader of a TOML file calls the types in msgspec's messages."""


class Written(str):
    """A value as it stands in the environment or on the command line, for a key of unknown type."""

    __slots__ = ()


def read_value(text: str) -> tuple[bool, Any]:
    """Return whether a text is a value of TOML, and the value."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False, None
    # A line's end in the text may have made more than one.
    return document.keys() == {"value"}, document.get("value")


def leaves(tree: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every value with its key; lists are values, and so are empty tables."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*at, name))
        else:
            yield (*at, name), value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Return both trees as one; where both have a value, the one from `above`."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            merged[name] = merge(under, value)
        else:
            merged[name] = value
    return merged


def check_keys(table: object, known: Iterable[str], place: str = "") -> Mapping[str, Any]:
    """Return `table` if it is one and all its keys are known. Raises `ConfigError`."""
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


def with_sizes(tree: Mapping[str, Any], at: Key = ()) -> Tree:
    """Return the tree with every size that is text as its number of bytes.

    A key that ends in ``_bytes`` is a size; the variables of a runtime are text, whatever
    their names. Raises `ConfigError`.
    """
    read: Tree = {}
    for name, value in tree.items():
        key = (*at, name)
        if isinstance(value, Mapping) and not (name == "env" and "runtimes" in key[-3:-2]):
            read[name] = with_sizes(value, key)
        elif isinstance(value, str) and name.endswith("_bytes"):
            try:
                read[name] = parse_size(value)
            except ValueError as error:
                raise ConfigError(f"{'.'.join(key)}: {error}") from None
        else:
            read[name] = value
    return read


def explain(error: msgspec.ValidationError, place: str = "") -> tuple[str, str]:
    """Return the key that msgspec complains of, and the complaint in the words of TOML.

    The value itself is left out: it may be a secret.
    """
    what, _, path = str(error).partition(" - at `$")
    what = re.sub(r"^Object (contains unknown|missing required) field", r"\1 key", what)
    what = re.sub(r"^Invalid enum value .*", "unknown value", what)
    what = re.sub(r"`(\w+)`", lambda word: WORDS.get(word[1], word[1]), what)
    key = f"{place}{path.removesuffix('`').replace('[...]', '')}".removeprefix(".")
    return key, what[0].lower() + what[1:]

"""The two spellings of a field: ``wall_time_s`` in Python and TOML, ``wallTimeS`` in JSON."""

from __future__ import annotations

__all__ = ["camel"]


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)

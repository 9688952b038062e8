"""Read ``[runtimes.NAME]``: a language, merged over the built-in one of that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec

from streamer.config.tree import check_keys, explain, merge
from streamer.errors import ConfigError
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime

__all__ = ["extended"]


def extended(tables: Mapping[str, Any]) -> dict[str, Runtime]:
    """Return the built-in runtimes with the tables ``[runtimes.NAME]`` merged over them.

    Raises `ConfigError` that names the key.
    """
    known = {key.name for key in fields(Runtime)} - {"name"}
    runtimes = dict(DEFAULT_RUNTIMES)
    for name, table in tables.items():
        place = f"runtimes.{name}"
        below = msgspec.to_builtins(runtimes[name]) if name in runtimes else {"name": name}
        try:
            runtimes[name] = msgspec.convert(merge(below, check_keys(table, known, place)), Runtime)
        except msgspec.ValidationError as error:
            key, wrong = explain(error, place)
            hint = _hint(name) if name not in runtimes and "run" not in table else ""
            raise ConfigError(f"{key}: {wrong}{hint}") from None
    return runtimes


def _hint(name: str) -> str:
    """Return what was probably meant by a new language without a command."""
    for runtime in DEFAULT_RUNTIMES.values():
        if name in runtime.aliases:
            return f"; {name} is another name of runtimes.{runtime.name}: write that"
    return f" of a new language; there are: {', '.join(DEFAULT_RUNTIMES)}"

"""Read ``[runtimes.NAME]``: a language, merged over the built-in one of that name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Final

import msgspec

from streamer.config.tree import Tree, check_keys, explain, merge
from streamer.errors import ConfigError
from streamer.model.job import Limits
from streamer.model.languages import DEFAULT_RUNTIMES
from streamer.model.runtime import Runtime

__all__ = ["extended"]

LIMITS: Final = tuple(limit.name for limit in fields(Limits))


def extended(
    tables: Mapping[str, Any], below: Mapping[str, Runtime] = DEFAULT_RUNTIMES
) -> dict[str, Runtime]:
    """Return runtimes, by default the built-in ones, with tables ``[runtimes.NAME]`` over them.

    ``[runtimes."NAME@VERSION"]`` is merged over the runtime NAME. Raises `ConfigError` that names
    the key.
    """
    known = {key.name for key in fields(Runtime)} - {"name"}
    runtimes = dict(below)
    # Versions last: what they are merged over may come behind them.
    for name, table in sorted(tables.items(), key=lambda item: "@" in item[0]):
        place = f"runtimes.{name}"
        base = _below(name, runtimes)
        check_keys(table, known, place)
        if "limits" in table:
            check_keys(table["limits"], LIMITS, f"{place}.limits")
        try:
            runtime = msgspec.convert(merge(base, table), Runtime)
        except msgspec.ValidationError as error:
            key, wrong = explain(error, place)
            hint = _hint(name) if name not in runtimes and "run" not in table else ""
            raise ConfigError(f"{key}: {wrong}{hint}") from None
        runtimes[name] = runtime if "version" in table else _with_its_version(base, runtime)
    return runtimes


def _hint(name: str) -> str:
    """Return what was probably meant by a new language without a command."""
    for runtime in DEFAULT_RUNTIMES.values():
        if name in runtime.aliases:
            return f"; {name} is another name of runtimes.{runtime.name}: write that"
    return f" of a new language; there are: {', '.join(DEFAULT_RUNTIMES)}"


def _below(name: str, runtimes: Mapping[str, Runtime]) -> Tree:
    """Return what a table is merged over. Raises `ConfigError` for a version of an alias."""
    language, _, version = name.partition("@")
    base = runtimes.get(name) or runtimes.get(language)
    if base is None:
        for other in runtimes.values():
            if version and language in other.aliases:
                raise ConfigError(
                    f"runtimes.{name}: {language} is another name of runtimes.{other.name}: "
                    f'write runtimes."{other.name}@{version}"'
                )
        return {"name": name}
    below: Tree = msgspec.to_builtins(base)
    if base.name != name:
        below["name"] = name
        below["title"] = f"{base.title or language} {version}"
        below["aliases"] = [f"{alias}@{version}" for alias in base.aliases]
    return below


def _with_its_version(below: Tree, runtime: Runtime) -> Runtime:
    """Return the runtime, asking its own tool for the version where it only names another tool."""
    asked = runtime.version
    if not asked or asked != tuple(below.get("version", ())):
        return runtime
    for key in ("compile", "run"):
        before, now = below.get(key), getattr(runtime, key)
        if before and now and before[0] == asked[0] != now[0]:
            return replace(runtime, version=(now[0], *asked[1:]))
    return runtime

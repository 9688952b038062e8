"""Read ``[environments.NAME]``: packages that the operator has built for languages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from streamer.config.tree import check_keys, explain
from streamer.errors import ConfigError
from streamer.model.environment import Environment, kind_of
from streamer.model.runtime import Runtime, by_name

__all__ = ["check_languages", "environments_folder", "read_environments"]

KEYS: Final = ("languages", "path", "variables")
OF_ROOT: Final = "/var/lib/streamer"


def environments_folder(state_dir: str) -> Path:
    """Return the folder in which environments without a path are.

    That is in the service's folder, or else where programs of this account keep their data. Raises
    `ConfigError` if the account has no home.
    """
    if state_dir:
        return Path(state_dir).absolute() / "environments"
    if os.geteuid() == 0:
        return Path(OF_ROOT, "environments")
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    except RuntimeError:
        raise ConfigError(
            "server.state_dir: this account has no home for environments; set a folder"
        ) from None
    return Path(data).absolute() / "streamer" / "environments"


def read_environments(tables: Mapping[str, Any], state_dir: str) -> dict[str, Environment]:
    """Return the environments of the tables. Raises `ConfigError` that names the key."""
    environments = {}
    for name, table in tables.items():
        place = f"environments.{name}"
        given = check_keys(table, KEYS, place)
        path = given.get("path") or str(environments_folder(state_dir) / name)
        try:
            environment = msgspec.convert({**given, "name": name, "path": path}, Environment)
        except msgspec.ValidationError as error:
            key, wrong = explain(error, place)
            raise ConfigError(f"{key}: {wrong}") from None
        environments[name] = environment
    return environments


def check_languages(
    environments: Mapping[str, Environment], runtimes: Mapping[str, Runtime]
) -> None:
    """Raise `ConfigError` if an environment is for a language that can have none."""
    known = by_name(runtimes)
    for environment in environments.values():
        place = f"environments.{environment.name}.languages"
        kinds = set()
        for name in environment.languages:
            if name not in known:
                raise ConfigError(
                    f"{place}: unknown language {name!r}; known: {', '.join(sorted(known))}"
                )
            kinds.add(kind := kind_of(known[name]))
            if kind is None:
                raise ConfigError(
                    f"{place}: {name!r} can have no packages; only languages can whose programs "
                    "Python or Node.js runs, without a compiler"
                )
        if len(kinds) > 1:
            raise ConfigError(f"{place}: packages are either of Python or of Node.js")

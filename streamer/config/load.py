"""Load the configuration: defaults < preset < file < profile < environment < options.

Every layer is a tree of tables. The layers are merged and then converted once, strictly.
``STREAMER_SERVER__PORT=9`` and ``--set server.port=9`` follow the same rule: a path and a value.
The value of a text key is taken as it is, any other is read as TOML. The options of plugins follow
it too, once the plugin has declared their types. A size that is not valid TOML ("256MiB") is read
as text.

A variable ``STREAMER_X`` without two underscores belongs to another program (Kubernetes sets
``STREAMER_PORT`` for a service of that name), unless X is a section.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from streamer.config.file import read_document
from streamer.config.schema import OF_PLUGINS, Config, with_preset, without_password
from streamer.config.tree import Key, Tree, Written, is_size, leaves, merge, read_value
from streamer.errors import ConfigError

__all__ = [
    "HIDDEN",
    "effective",
    "load_config",
    "load_with_origins",
    "stray_variables",
    "values",
    "with_origin",
]

PREFIX: Final = "STREAMER_"
PROFILE: Final = "STREAMER_PROFILE"
HIDDEN: Final = "***"
SECRET: Final = re.compile(r"(?i)passw|secret|token|credential|api_?key|private_?key")
"""Keys that probably name a secret, in tables whose keys we do not define."""
DOT: Final = re.compile(r'\.(?=(?:[^"]*"[^"]*")*[^"]*$)')
"""A dot between two words of a key; one of them may be quoted, as in TOML."""

Layer = tuple[str, Tree]
"""The origin of a tree, and the tree."""


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    profile: str | None = None,
) -> Config:
    """Return the configuration; see `load_with_origins`."""
    return load_with_origins(path, environ=environ, overrides=overrides, profile=profile)[0]


def load_with_origins(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    profile: str | None = None,
) -> tuple[Config, Mapping[str, str]]:
    """Return the configuration, and the origin of each value by its dotted key.

    `path` is a TOML file or None; `environ` are the variables to read, by default those of this
    process; `overrides` are ``section.key=VALUE``; `profile` names a table ``[profiles.NAME]`` of
    the file, by default ``STREAMER_PROFILE``. Raises `ConfigError` that names the file, variable
    or option, the key, and the remedy.
    """
    environ = os.environ if environ is None else environ
    file, profiles = ([], {}) if path is None else _read(Path(path))
    for layer in profiles.values():
        # A profile that is not in use today must be valid too.
        _combine([*file, layer])
    layers = [*file, *_from_environment(environ), *_from_options(overrides)]
    wanted = profile or environ.get(PROFILE)
    if wanted:
        if wanted not in profiles:
            where = "no configuration file is given" if path is None else f"{path}"
            raise ConfigError(f"{where}: there is no [profiles.{wanted}]{_like(wanted, profiles)}")
        layers.insert(len(file), profiles[wanted])
    config, origins = _combine(layers)
    named = {".".join(key): origin for key, origin in origins.items()}
    return config, {key: named.get(key, "default") for key in effective(config)}


def with_origin(error: ConfigError, origins: Mapping[str, str]) -> ConfigError:
    """Return an error that was found later than here with the origin of its key before it.

    Plugins say which options a backend has. `origins` are those of `load_with_origins`.
    """
    # A message may go on with the value: "sandbox.backend = ...".
    origin = _origin(error.message.partition(": ")[0].partition(" ")[0], origins)
    known = origin and origin != "default"
    return ConfigError(f"{origin}: {error.message}") if known else error


def effective(config: Config) -> dict[str, object]:
    """Return every value by its dotted key; secrets are replaced by `HIDDEN`."""
    return {".".join(key): value for key, value in values(config).items()}


def values(config: Config) -> dict[Key, object]:
    """Return every value by its key; secrets are replaced by `HIDDEN`."""
    tree: Tree = msgspec.to_builtins(config, enc_hook=str)
    for section in OF_PLUGINS:
        tree[section] |= tree[section].pop("options")
    tree["engine"]["url"] = without_password(config.engine.url)
    tree["engine"]["blobs_url"] = without_password(config.engine.blobs_url)
    tree["engine"]["blobs_secret_key"] = HIDDEN if config.engine.blobs_secret_key else ""
    tree["auth"]["tokens"] = [_given(token) | {"sha256": HIDDEN} for token in config.auth.tokens]
    tree["auth"]["grant_secret"] = HIDDEN if config.auth.grant_secret else ""
    tree["auth"]["tenants"] = {name: _given(own) for name, own in config.auth.tenants.items()}
    webhooks = tree["webhooks"]
    webhooks["secrets"] = [HIDDEN for _ in config.webhooks.secrets]
    webhooks["tenant_secrets"] = {name: [HIDDEN] for name in config.webhooks.tenant_secrets}
    tree["metrics"]["token_sha256"] = HIDDEN if config.metrics.token_sha256 else ""
    for named in (*tree["runtimes"].values(), *tree["environments"].values()):
        del named["name"]
    return {
        key: HIDDEN if len(key) > 2 and SECRET.search(key[-1]) else value
        for key, value in leaves(tree)
        if value != {}
    }


def _given(section: msgspec.Struct) -> Tree:
    """Return what is not as by default, or has no default."""
    return {
        field.name: msgspec.to_builtins(value)
        for field in msgspec.structs.fields(section)
        if (value := getattr(section, field.name)) != field.default
    }


def stray_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield variables that are not read, each with the one that was probably meant.

    They are not errors: Kubernetes sets STREAMER_SERVER_PORT for a service called
    streamer-server.
    """
    keys = {key.replace(".", "_"): key for key in effective(Config())}
    for name in sorted(environ):
        upper, meant = name.upper(), name[len(PREFIX) :].lower()
        if not upper.startswith(PREFIX) or "__" in name:
            continue
        close = difflib.get_close_matches(meant, keys, n=1, cutoff=0.92)
        if close:
            yield name, PREFIX + keys[close[0]].replace(".", "__").upper()


def _combine(layers: Sequence[Layer]) -> tuple[Config, dict[Key, str]]:
    """Return the configuration of the merged layers, and the origin of each key."""
    tree: Tree = {}
    origins: dict[Key, str] = {}
    for origin, layer in layers:
        tree = merge(tree, layer)
        for key, _ in leaves(layer):
            origins.pop(key, None)  # so that the latest layer comes last
            origins[key] = origin
    extended = with_preset(tree)
    if extended is not tree:
        preset = f"preset {tree['sandbox']['preset']}"
        below = {key: preset for key, _ in leaves(extended) if key not in origins}
        origins = {**below, **origins}  # the earliest layer comes first
    try:
        return Config.from_mapping(tree), origins
    except ConfigError as error:
        # The message begins with the key.
        named = {".".join(key): origin for key, origin in origins.items()}
        origin = _origin(error.message.partition(": ")[0], named)
        raise ConfigError(f"{origin}: {error.message}" if origin else error.message) from None


def _origin(dotted: str, origins: Mapping[str, str]) -> str:
    """Return the latest layer that set a key, a part of its value, or a table around it.

    What nobody has set in a table with a name, as of a language, has the origin of that table.
    """
    place = dotted.partition("[")[0]
    while place:
        inside = [one for key, one in origins.items() if f"{key}.".startswith(f"{place}.")]
        around = [one for key, one in origins.items() if place.startswith(f"{key}.")]
        if inside or around or place.count(".") < 2:
            return next(reversed([*around, *inside]), "")
        place = place.rpartition(".")[0]
    return ""


def _read(path: Path) -> tuple[list[Layer], dict[str, Layer]]:
    """Return the file as a layer, and a layer for each of its profiles."""
    document: Tree = read_document(path)
    profiles = document.pop("profiles", {})
    tables = profiles.values() if isinstance(profiles, dict) else [profiles]
    if not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: profiles: expected tables, as in [profiles.NAME.server]")
    layers = {name: (f"{path} [profiles.{name}]", tree) for name, tree in profiles.items()}
    for tree in (document, *profiles.values()):
        environments = tree.get("environments")
        others = environments.values() if isinstance(environments, dict) else ()
        paths = ((tree.get("server"), "state_dir"), (tree.get("auth"), "tokens_file"))
        for table, key in (*paths, *((one, "path") for one in others)):
            if isinstance(table, dict) and table.get(key) and type(table[key]) is str:
                table[key] = str(path.parent.absolute() / table[key])
    return [(str(path), document)], layers


def _from_environment(environ: Mapping[str, str]) -> Iterator[Layer]:
    for name, text in sorted(environ.items()):
        if not name.upper().startswith(PREFIX):
            continue
        parts = name[len(PREFIX) :].split("__")
        key = [part.lower() for part in parts]
        of_names = {"runtimes": (["env"], ["files"]), "environments": (["variables"],)}
        if key[2:3] in of_names.get(key[0], ()):
            key[3:] = parts[3:]  # names of environment variables and files are case-sensitive
        if len(key) > 1:
            yield f"environment {name}", _assignment(key, text, f"environment {name}")
        elif key[0] in Config.__struct_fields__:
            raise ConfigError(f"environment {name}: a section has no value of its own; add __KEY")


def _from_options(overrides: Sequence[str]) -> Iterator[Layer]:
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = [word.strip('"') for word in DOT.split(key.strip())]
        if not equals or len(parts) < 2 or not all(parts):
            raise ConfigError(f"command line: {key}: write section.key=VALUE")
        yield "command line", _assignment(parts, text, f"command line: {key}")


def _assignment(key: Sequence[str], text: str, where: str) -> Tree:
    value: Any = text if _is_text(key) else _parse(key, text, where)
    for name in reversed(key):
        value = {name: value}
    return dict(value)


def _is_text(key: Sequence[str]) -> bool:
    """Tell whether a key holds text, by its default; names and variables of tables are text."""
    if key[0] == "runtimes":
        return list(key[2:]) in (["entry"], ["title"]) or list(key[2:-1]) in (["env"], ["files"])
    if key[0] == "auth" and key[1:2] == ["tenants"]:
        return list(key[3:]) == ["rate"]
    if key[0] == "environments":
        return list(key[2:]) == ["path"] or list(key[2:-1]) == ["variables"]
    value: Any = Config()
    for name in key:
        value = getattr(value, name, None)
    return isinstance(value, str)


def _parse(key: Sequence[str], text: str, where: str) -> Any:
    if key[0] in OF_PLUGINS and len(key) == 3:
        # Only the plugin knows the types of its options.
        return Written(text)
    found, value = read_value(text)
    if found:
        return value
    if is_size(key[-1]) or (key[0] in OF_PLUGINS and len(key) > 3):
        return text
    # The text itself may be a secret.
    raise ConfigError(
        f'{where}: the value is not valid TOML; write it like 8080, true or ["a", "b"]'
    )


def _like(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if known else ""

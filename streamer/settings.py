"""Put the configuration together: defaults < file < profile < environment < options.

Every layer is a tree of tables; they are merged as trees and converted once, strictly. One
grammar holds everywhere: ``STREAMER_SERVER__PORT=9`` and ``--set server.port=9`` are a path
and a value; a key that is text takes the text as it is, any other reads it as TOML.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from streamer.config import Config, is_loopback, without_password
from streamer.errors import ConfigError

__all__ = ["check_exposure", "effective", "load_config", "load_with_origins"]

VARIABLE_PREFIX: Final = "STREAMER_"
NOT_KEYS: Final = frozenset({"PROFILE", "CONFIG", "TOKEN", "REQUIRE_BACKENDS"})
"""Variables that begin like ours and are read elsewhere."""

Tree = dict[str, Any]
Path_ = tuple[str, ...]


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
    """Return the configuration and, for each dotted key that was set, where that was.

    `path` is a TOML file or None for none; `environ` the variables to read, by default
    this process's; `overrides` are ``section.key=VALUE``; `profile` names a table
    ``[profiles.NAME]`` of the file, by default ``STREAMER_PROFILE``. Raises
    `ConfigError` that names the file, variable or option, the key, and the remedy.
    """
    environ = os.environ if environ is None else environ
    profile = profile or environ.get("STREAMER_PROFILE")
    tree: Tree = {}
    origins: dict[Path_, str] = {}
    for origin, layer in _layers(path, environ, overrides, profile):
        for key, value in _leaves(layer):
            _check_key(key, value, origin)
            _put(tree, key, value)
            origins[key] = origin
    try:
        config = Config.from_mapping(tree)
    except ConfigError as error:
        key = error.message.partition(":")[0]
        # The message names a key, or one of its elements as ``auth.tokens[0].sha256``.
        origin = next(
            (where for at, where in origins.items() if f"{key}.".startswith(".".join(at))), ""
        )
        raise ConfigError(f"{origin}: {error.message}" if origin else error.message) from None
    return config, {".".join(key): origin for key, origin in origins.items()}


def effective(config: Config) -> dict[str, object]:
    """Return every value under its dotted key, secrets hidden."""
    tree: Tree = msgspec.to_builtins(config)
    options = tree["sandbox"].pop("options")
    tree["sandbox"].update(options)
    tree["engine"]["url"] = without_password(tree["engine"]["url"])
    tree["auth"]["tokens"] = [
        {"tenant": token["tenant"], "sha256": "***"} for token in tree["auth"]["tokens"]
    ]
    return {".".join(key): value for key, value in _leaves(tree)}


def check_exposure(config: Config) -> None:
    """Refuse to run code for everybody who can reach this machine. Raises `ConfigError`."""
    if not config.auth.tokens and not is_loopback(config.server.host):
        raise ConfigError(
            f"server.host = {config.server.host!r} is reachable from elsewhere and nobody would "
            "be asked who they are: add an [[auth.tokens]] table with tenant and sha256, or "
            "listen on 127.0.0.1"
        )


def _layers(
    path: str | Path | None,
    environ: Mapping[str, str],
    overrides: Sequence[str],
    profile: str | None,
) -> Iterator[tuple[str, Tree]]:
    document = _read_file(Path(path)) if path is not None else {}
    profiles = document.pop("profiles", {})
    yield str(path), document
    if profile is not None:
        if not isinstance(profiles, dict) or profile not in profiles:
            raise ConfigError(
                f"{path or 'no configuration file'}: there is no [profiles.{profile}]"
                f"{_did_you_mean(profile, profiles)}"
            )
        yield f"{path} [profiles.{profile}]", _from_file(profiles[profile], path)
    for name, text in sorted(environ.items()):
        rest = name.removeprefix(VARIABLE_PREFIX)
        if rest != name and rest not in NOT_KEYS:
            yield f"environment {name}", _assignment(rest.lower().split("__"), text, name)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: write section.key=VALUE")
        yield f"command line, {key}", _assignment(key.strip().split("."), text, f"--set {key}")


def _read_file(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return _from_file(document, path)


def _from_file(document: Tree, path: str | Path | None) -> Tree:
    """Make paths in the file relative to the file."""
    server = document.get("server")
    folder = server.get("state_dir") if isinstance(server, dict) else None
    if isinstance(server, dict) and isinstance(folder, str) and folder:
        server["state_dir"] = str(Path(path or ".").parent / folder)
    return document


def _assignment(key: Sequence[str], text: str, where: str) -> Tree:
    if len(key) < 2 or not all(key):
        raise ConfigError(f"{where}: a key is a section and a name, as in server.port")
    value: Any = text if _is_text(key) else _toml_value(text, where)
    for name in reversed(key):
        value = {name: value}
    return dict(value)


def _is_text(key: Sequence[str]) -> bool:
    """Tell whether the value at a key is text, by its default."""
    value: Any = Config()
    for name in key:
        if isinstance(value, Mapping):
            value = value.get(name)
        else:
            value = getattr(value, name, None)
    if isinstance(value, str):
        return True
    # The options of a backend: text where they do not read as TOML.
    return False


def _toml_value(text: str, where: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        # A backend's option, whose type is not known here, may well be plain text.
        if "sandbox" in where.lower() and not text.startswith(("[", "{", '"', "'")):
            return text
        raise ConfigError(
            f'{where}: {text!r} is no value in TOML; write a number, true, false or ["a", "b"]'
        ) from None


def _leaves(tree: Mapping[str, Any], at: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*at, name))
        else:
            yield (*at, name), value


def _put(tree: Tree, key: Path_, value: Any) -> None:
    for name in key[:-1]:
        tree = tree.setdefault(name, {})
    tree[key[-1]] = value


def _check_key(key: Path_, value: object, origin: str) -> None:
    """Name an unknown section or key, with the nearest one there is."""
    sections = {field.name: field for field in msgspec.structs.fields(Config)}
    section = key[0]
    if section not in sections:
        raise ConfigError(
            f"{origin}: {section}: there is no such section{_did_you_mean(section, sections)}; "
            f"there are {', '.join(sections)}"
        )
    if len(key) == 1:
        if value == {}:
            return
        raise ConfigError(f"{origin}: {section}: expected a table")
    if section in ("runtimes", "limits") or (section == "sandbox" and len(key) > 2):
        return  # checked with their contents
    default = getattr(Config(), section)
    known = [name for name in default.__struct_fields__ if name != "options"]
    if key[1] not in known and not (section == "sandbox" and value == {}):
        raise ConfigError(
            f"{origin}: {section}.{key[1]}: there is no such key{_did_you_mean(key[1], known)}; "
            f"there are {', '.join(known)}"
        )


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""

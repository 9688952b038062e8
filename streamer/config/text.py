"""Write a configuration as TOML: the values in force, or a template to start from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from streamer.config.load import HIDDEN, values
from streamer.config.schema import Config

__all__ = ["in_force", "template", "with_options"]

BARE: Final = re.compile("[A-Za-z0-9_-]+")
PACKAGE: Final = Path(__file__).parent.parent


def in_force(config: Config, origins: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yield a line of TOML for every value; a line with a hidden secret is commented out."""
    for key, value in values(config).items():
        line = f"{'.'.join(map(_key, key))} = {_value(value)}"
        if HIDDEN in line:
            line = f"# {line}"
        origin = "" if origins is None else f"  # {origins.get('.'.join(key), 'default')}"
        yield line + origin


def with_options(config: Config, backends: Mapping[str, Any]) -> Config:
    """Return the configuration with all options of these backends, which are dataclasses."""
    options = {
        name: {
            field.name: value
            for field in fields(backend)
            if field.init and (value := getattr(backend, field.name)) is not None
        }
        for name, backend in backends.items()
        if is_dataclass(backend)
    }
    return replace(config, sandbox=replace(config.sandbox, options=options))


def template() -> str:
    """Return config.toml with every setting commented out.

    A plain copy would set every value, so that presets and the defaults of later versions would
    have no effect.
    """
    # In the wheel it lies in the package, in the repository at the top.
    beside, above = PACKAGE / "config.toml", PACKAGE.parent / "config.toml"
    text = (beside if beside.exists() else above).read_text(encoding="utf-8")
    return "".join(_commented(text.splitlines(keepends=True)))


def _commented(lines: Iterable[str]) -> Iterator[str]:
    inside = False  # in a multi-line string, whose lines may look like comments
    for line in lines:
        yield f"#{line}" if inside or line[0] not in "#[\n" else line
        inside ^= (line.count('"""') + line.count("'''")) % 2 == 1


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(str(name))} = {_value(part)}" for name, part in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)

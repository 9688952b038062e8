"""Find the configuration file when none is named.

`serve` and `config` are for the operator, who works in the service's folder: they read its
config.toml. Every other command may be started in the folder of an untrusted program, whose
config.toml could replace the sandbox's command or turn sandboxing off; they read the user's file.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from streamer.config.schema import Config
from streamer.errors import ConfigError

__all__ = ["FILE_NAME", "is_ours", "read_document", "seems_ours", "users_file"]

FILE_NAME: Final = "config.toml"
SECTIONS: Final = (*Config.__struct_fields__, "profiles")
HEAD_BYTES: Final = 64 * 1024
NAMED: Final = f"[\"']?(?:{'|'.join(SECTIONS)})[\"']?[ \t]*"
SECTION: Final = re.compile(
    rf"^[ \t]*(?:\[{{1,2}}[ \t]*{NAMED}[].]|{NAMED}(?:\.|=[ \t]*\{{))".encode(), re.MULTILINE
)
"""A table of ours, or a top-level key of one. A plain key may be another program's."""
ALIKE: Final = 0.8


def read_document(path: Path) -> dict[str, object]:
    """Return the content of a TOML file. Raises `ConfigError`."""
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: invalid TOML: {error}") from error


def users_file(environ: Mapping[str, str]) -> Path | None:
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path("~/.config").expanduser()
        except RuntimeError:
            return None  # an account unknown to the system, without HOME
    path = base / "streamer" / FILE_NAME
    # A relative path would lie in the current folder again. HOME may be another user's: for a
    # path without permission os.path.isfile returns False, while Path.is_file raises.
    return path if path.is_absolute() and os.path.isfile(path) else None  # noqa: PTH113 - as above


def is_ours(document: Mapping[str, object]) -> bool:
    """Tell whether a config.toml that was found is ours, and not another program's.

    One of our sections is enough, even if it is misspelt: a file meant for us must not be
    silently ignored.
    """
    return not document or any(_meant(key, value) for key, value in document.items())


def seems_ours(path: Path) -> bool:
    """Tell whether a file, which may be hostile, looks like a configuration of ours."""
    try:
        # Opening a FIFO must not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return regular and SECTION.search(os.read(descriptor, HEAD_BYTES)) is not None
    finally:
        os.close(descriptor)


def _meant(key: str, value: object) -> bool:
    like = difflib.get_close_matches(key.lower(), SECTIONS, n=1, cutoff=ALIKE)
    return key in SECTIONS or (isinstance(value, Mapping | list) and bool(like))

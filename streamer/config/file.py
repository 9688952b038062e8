"""Find the configuration file that nobody has named.

`serve` and `config` are for the operator, who stands in the service's folder: they take its
config.toml. Every other command may stand in the folder of a program that is not trusted, whose
config.toml could name the sandbox's own command, or none at all; they take the user's.
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
"""A table, or a key of one at the top. In a file of another program a plain key is no sign."""
ALIKE: Final = 0.8


def read_document(path: Path) -> dict[str, object]:
    """Return what a TOML file holds. Raises `ConfigError`."""
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: no valid TOML: {error}") from error


def users_file(environ: Mapping[str, str]) -> Path | None:
    """Return the user's own configuration file, if there is one."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        try:
            base = Path("~/.config").expanduser()
        except RuntimeError:
            return None  # an account that the system does not list, without HOME
    path = base / "streamer" / FILE_NAME
    # A relative one would be in the folder after all. os.path takes what may not be looked at
    # for absent, where Path raises: HOME may be another user's.
    return path if path.is_absolute() and os.path.isfile(path) else None  # noqa: PTH113


def is_ours(document: Mapping[str, object]) -> bool:
    """Tell whether a file that nobody named is a configuration of ours, and not another program's.

    One of our sections is enough, also if it is misspelt: what was meant for us must not be left
    unread without a word.
    """
    return not document or any(_meant(key, value) for key, value in document.items())


def seems_ours(path: Path) -> bool:
    """Tell whether a file, which may be hostile, looks like a configuration of ours."""
    try:
        # A FIFO of this name must not keep us waiting.
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

"""The folder of a service's processes: their sockets, and what their Redis server needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from streamer.errors import ConfigError
from streamer.sandbox.host.state import locked, make_passable, sweep
from streamer.sandbox.host.workspace import remove_tree

__all__ = ["processes_folder"]

PREFIX: Final = "streamer-processes-"
MARK: Final = "sockets"

LONGEST_PATH: Final = 107
"""Of a socket, in bytes (unix(7))."""

LONGEST_NAME: Final = "redis.sock"
"""The longest name of a socket in it: the others are numbers of processes below `MARK`."""


@contextmanager
def processes_folder(configured: str) -> Iterator[Path]:
    """Make a folder that only this account can enter, and remove it at the end.

    It is in `configured`, or among temporary files. Those of killed services are removed.
    """
    try:
        if configured:
            make_passable(Path(configured))
        # With the mode 0700.
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=configured or None)).absolute()
    except OSError as error:
        where = error.filename or configured or tempfile.gettempdir()
        raise ConfigError(
            f"server.state_dir: {where}: {error.strerror}; use a folder that the service may write "
            "to"
        ) from error
    if len(os.fsencode(path / MARK / LONGEST_NAME)) > LONGEST_PATH:
        path.rmdir()
        raise ConfigError(
            f"server.state_dir: {path.parent}: the path is too long for a socket in it; use "
            "another folder"
        )
    sweep(path.parent, PREFIX, MARK)
    with locked(path) as ours:
        assert ours
        try:
            (path / MARK).mkdir(mode=0o700)
            yield path
        finally:
            remove_tree(path)

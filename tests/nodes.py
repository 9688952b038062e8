"""Start `streamer serve` processes that share one Redis server, and end them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

__all__ = ["Node", "node"]

START_S: Final = 60.0


@dataclass
class Node:
    """A service, which may still be starting."""

    process: subprocess.Popen[bytes]
    log: Path
    engine: str
    """The URL of the engine that it has been given."""

    @cached_property
    def url(self) -> str:
        """Its address, once it listens."""
        ends = time.monotonic() + START_S
        while not (found := re.search(r"listens on (http://[\d.:]+\d)/", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.01)
        return found[1]


@contextmanager
def node(folder: Path, role: str, engine: str, *settings: str) -> Iterator[Node]:
    """Run a service on a free port; `settings` are those of ``--set``, `folder` is for its files."""
    folder.mkdir()
    folder.chmod(0o755)
    log = folder / "log"
    given = (f"engine.url={engine}", f"server.state_dir={folder}", "streams.grace_s=0.05")
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "streamer", "serve", "--port", "0", "--role", role),
                *(word for setting in (*given, *settings) for word in ("--set", setting)),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        yield Node(process, log, engine)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()

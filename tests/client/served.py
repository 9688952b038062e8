"""A service in a process of its own, for clients that block, or that are other programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LISTENS = re.compile(rb"http://127\.0\.0\.1:\d+")


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """Start the service on a free port, and yield its address."""
    process = subprocess.Popen(
        (
            *(sys.executable, "-m", "streamer", "serve", "--port", "0"),
            *("--set", "streams.grace_s=0.05", "--set", "server.drain_s=0", *options),
        ),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            # The line that says how many jobs run at a time comes when jobs are taken.
            if b"at most" in line and (found := LISTENS.search(line)):
                yield found[0].decode()
                return
        raise AssertionError("the service has not started")
    finally:
        process.terminate()
        process.stderr.close()
        process.wait(60)

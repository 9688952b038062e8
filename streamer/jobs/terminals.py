"""Check what a job says of its terminal."""

from __future__ import annotations

from typing import Final

from streamer.errors import InvalidJob, quoted
from streamer.model.capabilities import BackendFacts
from streamer.model.job import TerminalSize

__all__ = ["MOST", "check_size", "check_terminal"]

MOST: Final = 1000
"""Columns or rows."""


def check_size(size: TerminalSize, path: str) -> None:
    """Refuse a size that no terminal has. Raises `InvalidJob`; `path` is that of the size."""
    for name, value in (("cols", size.cols), ("rows", size.rows)):
        if not 1 <= value <= MOST:
            raise InvalidJob(f"{name} must be from 1 to {MOST}", path=f"{path}.{name}")


def check_terminal(size: TerminalSize, backend: str, facts: BackendFacts) -> None:
    """Check the terminal that a job asks for. Raises `InvalidJob`."""
    check_size(size, "$.terminal")
    if not facts.terminals:
        raise InvalidJob(
            f"the sandbox {quoted(backend)} cannot give a program a terminal here",
            path="$.terminal",
        )

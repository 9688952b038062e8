"""Show the rows of a command as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamer.model.terminal import visible

__all__ = ["show_rows"]

WIDEST: Final = 10_000
"""Columns of a file or a pipe, in which nothing is cut or wrapped."""


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that have the same keys; a row is one line wherever it is no terminal."""
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDEST
    console.print(table)


def _cell(value: object) -> str:
    """Return the text of a table's cell; markup and control characters in it have no effect."""
    return {"True": "yes", "False": "no"}.get(str(value)) or escape(visible(str(value)))

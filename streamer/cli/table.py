"""Show the rows of a command as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from streamer.model.terminal import visible

__all__ = ["show_rows"]


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that have the same keys."""
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(soft_wrap=True).print(table)


def _cell(value: object) -> str:
    """Return the text of a table's cell; markup and control characters in it have no effect."""
    return {"True": "yes", "False": "no"}.get(str(value)) or escape(visible(str(value)))

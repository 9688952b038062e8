"""Say how far a command has come, if it takes a while: a bar on a terminal, else a line of text.

All of it goes to standard error, and nothing is said by a command that is quick.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click

from streamer.model.terminal import visible

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Progress"]

SHOWN_AFTER_S: Final = 0.3
"""When a bar is drawn: rich takes a while to import."""
TOLD_AFTER_S: Final = 2.0
TOLD_EVERY_S: Final = 10.0
"""When lines are written."""


class Progress:
    """How far a task of a command is. Use it as a context manager around the task.

    Without `lines` nothing is written where standard error is no terminal: whoever asks for JSON
    may read both outputs as one.
    """

    def __init__(self, title: str, *, lines: bool = True) -> None:
        self._title = visible(title)
        self._lines = lines
        self._done = 0.0
        self._total: float | None = None
        self._bar: tuple[Bar, TaskID] | None = None
        self._lock = threading.Lock()
        self._over = False
        self._told_at = 0.0
        terminal = sys.stderr is not None and sys.stderr.isatty()
        begin = self._draw if terminal else self._tell
        self._lines = lines
        # In a thread: the task may wait in the event loop, or block it.
        self._timer = threading.Timer(SHOWN_AFTER_S if terminal else TOLD_AFTER_S, begin)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._bar is not None:
                self._bar[0].stop()

    def set(self, done: float, total: float) -> None:
        """Tell how much of how much is done, in any unit."""
        with self._lock:
            self._done, self._total = done, total
            if self._bar is not None:
                bar, task = self._bar
                bar.update(task, completed=done, total=total)
            due = self._told_at and time.monotonic() - self._told_at > TOLD_EVERY_S
        if due:
            self._tell()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn())
        bar = Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        with self._lock:
            if self._over:
                return
            task = bar.add_task(self._title, total=self._total, completed=int(self._done))
            self._bar = (bar, task)
            bar.start()

    def _tell(self) -> None:
        with self._lock:
            if self._over or not self._lines:
                return
            self._told_at = time.monotonic()
            part = f": {self._done / self._total:.0%}" if self._total else ""
        click.echo(f"streamer: {self._title}{part}", err=True)

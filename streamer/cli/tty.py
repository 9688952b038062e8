"""The terminal here, while the program of a job has it: its keys, its size, and how it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import click

__all__ = ["RESET", "Modes", "Terminal", "check_terminal"]

MOST: Final = 1000
"""The largest size that a service takes, in columns or rows."""

USUAL: Final = (80, 24)

BY_SIGNALS: Final = (signal.SIGHUP, signal.SIGQUIT)
"""What else ends a run that has the terminal, so that it is restored."""

SEQUENCE: Final = re.compile(rb"(?:\x1b\[|\xc2\x9b)\?([0-9;]{1,64})([hl])")
"""What sets modes; the C1 control in UTF-8 does as well as ESC [."""
LONGEST: Final = 70
MOST_MODES: Final = 100
COMMON: Final = frozenset(
    str(mode).encode()
    for mode in (
        *range(1, 10),
        12,
        25,
        45,
        47,
        66,
        *range(1000, 1017),
        1047,
        1048,
        1049,
        2004,
        2026,
    )
)
"""Those that are always followed, as programs may set more than that many."""
ON_BY_DEFAULT: Final = frozenset((b"7", b"25"))
"""Wrapping of lines, and the cursor."""
RESET: Final = b"\x1b[0m\x1b>\x1b(B\x0f\x1b[4l"
"""No colours, the usual keypad and letters, and nothing is inserted."""


def check_terminal(
    program: str | None, *, no_stdin: bool, cases: str | None, as_json: bool
) -> None:
    """Raise `click.UsageError` unless somebody at a terminal sees the output, and types."""
    if program == "-" or no_stdin or cases is not None:
        other = "-n" if no_stdin else "--cases" if cases else "a program from standard input"
        raise click.UsageError(f"--terminal gives the program the keys: it cannot go with {other}")
    if as_json:
        raise click.UsageError("--terminal shows what the program draws, and --json its events")
    if not (os.isatty(0) and os.isatty(1)):
        raise click.UsageError("--terminal: standard input and output must be a terminal here")


class Terminal:
    """Standard input, which is a terminal. Whoever begins with it must restore it."""

    def __init__(self) -> None:
        self._before = termios.tcgetattr(0)
        self._raw = False
        self.begun = asyncio.Event()
        """Set when the program runs, and so gets what is typed."""
        self._told = self.size
        self.unanswered = False
        """Whether nobody gets what is typed: then Ctrl-C is for this command again."""
        self._changed = asyncio.Event()

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and rows; the usual ones if it does not know them."""
        cols, rows = os.get_terminal_size(0)
        return min(cols, MOST) or USUAL[0], min(rows, MOST) or USUAL[1]

    def begin(self) -> None:
        """Pass every key on, Ctrl-C too, from now on. Idempotent."""
        self.unanswered = False
        if not self._raw:
            self._raw = True
            with _not_stopped():
                tty.setraw(0, termios.TCSADRAIN)
        if self.size != self._told:
            self._changed.set()  # while the job waited
        self.begun.set()

    def restore(self) -> bool:
        """Let it be as it was; return False if it was so already."""
        if not self._raw:
            return False
        self._raw = False
        # It may be gone: its window was closed, its connection has broken.
        with _not_stopped(), contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        return True

    @contextlib.contextmanager
    def kept(self, end: Callable[[], None]) -> Iterator[None]:
        """Restore it after the block, whatever ends that; signals that would do so call `end`."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGWINCH: self._changed.set,
            signal.SIGTSTP: self._stop,
            **dict.fromkeys(BY_SIGNALS, end),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            self.restore()
            for number in handlers:
                loop.remove_signal_handler(number)

    async def follow_size(self, resize: Callable[[int, int], Awaitable[object]]) -> None:
        """Tell each new size, until this is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._told = self.size
            await resize(*self._told)

    def _stop(self) -> None:
        """Stop as any program does (kill -TSTP); Ctrl-Z stops the program of the job."""
        was_raw = self._raw
        self.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        # Here it goes on, perhaps in a window of another size.
        if was_raw:
            self.begin()
        self._changed.set()


class Modes:
    """Which modes of the terminal a program has changed, such as the other screen or no cursor.

    A program that is killed does not change them back.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._changed: dict[bytes, bool] = {}

    def feed(self, data: bytes) -> None:
        text = self._rest + data
        end = 0
        for found in SEQUENCE.finditer(text):
            end = found.end()
            for number in found[1].split(b";"):
                mode = number.lstrip(b"0")
                if mode in COMMON or mode in self._changed or len(self._changed) < MOST_MODES:
                    self._changed[mode] = found[2] == b"h"
        begun = max(end, len(text) - LONGEST)
        cut = max(text.rfind(b"\x1b", begun), text.rfind(b"\xc2", begun))
        self._rest = text[cut:] if cut >= 0 else b""

    def reset(self) -> bytes:
        """Return what sets them back."""
        back = [
            b"\x1b[?" + mode + (b"h" if mode in ON_BY_DEFAULT else b"l")
            for mode, on in self._changed.items()
            if mode and on != (mode in ON_BY_DEFAULT)
        ]
        return b"".join(back) + RESET if back else b""


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Let the modes be set in the background too, where SIGTTOU would stop this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

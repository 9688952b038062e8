"""The standard descriptors of a command, as its caller has left them."""

from __future__ import annotations

import os

__all__ = ["drop_output", "fill_closed"]


def fill_closed() -> None:
    """Open those of descriptors 0 to 2 that are closed, so that no file of ours gets their number.

    They are opened in the wrong direction, so using them still fails with EBADF.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, which is this one


def drop_output() -> None:
    """Discard what Python has buffered for standard output; it would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

"""How a command exits, as timeout(1) and a shell do."""

from __future__ import annotations

from typing import Final

EXIT_USAGE: Final = 2
EXIT_TIME_LIMIT: Final = 124
EXIT_NOT_RUN: Final = 125
EXIT_INTERRUPTED: Final = 130
EXIT_KILLED: Final = 137
EXIT_BROKEN_PIPE: Final = 141

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_INTERRUPTED",
    "EXIT_KILLED",
    "EXIT_NOT_RUN",
    "EXIT_TIME_LIMIT",
    "EXIT_USAGE",
]
